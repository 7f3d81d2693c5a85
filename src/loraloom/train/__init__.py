"""One loop for every family: what is due, then the step, then the log."""
