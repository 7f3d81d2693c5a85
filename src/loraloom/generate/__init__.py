"""Prompts x seeds x adapters to an iterable of images; the same one feeds samples, evaluation, API and web page."""
