"""Shard job in, samples out: one module per way of making them."""
