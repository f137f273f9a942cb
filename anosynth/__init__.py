"""Synthetic anomaly data from a few real shots, versioned and measured; see README.md."""

__version__ = "0.1.0"
