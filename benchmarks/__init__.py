"""One file for each claim of the README; run them from the repository root: `python -m benchmarks.NAME`."""
