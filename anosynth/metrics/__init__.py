"""Detection metrics as mergeable accumulators."""
