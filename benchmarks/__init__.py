"""Speed bars: python -m benchmarks.NAME compares both sides in one process and prints one line per bar."""
