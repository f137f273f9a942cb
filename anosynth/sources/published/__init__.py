"""The data sets of the literature with their published partitions, each read from its original download."""
