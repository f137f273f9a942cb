"""Detectors that are fitted on real and synthetic images and tested on real ones."""
