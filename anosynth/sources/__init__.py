"""Real (and rendered) inspection data in, one record table out; the split rule and the shots' lock."""
