"""Training: from settings to a finished adapter, by one loop for every family."""
