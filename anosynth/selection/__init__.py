"""Choosing the few shots, and proving that none of them leaks into validation or test."""
