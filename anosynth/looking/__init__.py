"""The commands that look and change nothing they look at: verify, inspect, doctor and contact sheets."""
