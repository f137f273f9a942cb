"""Frozen image encoders, patch distances and k-centre selection, shared by everything above."""
