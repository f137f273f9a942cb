"""report.html: one self-contained file that shows the verdict, its numbers, the samples and where they come from."""
