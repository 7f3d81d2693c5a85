"""Prompts x seeds x adapters to an iterable of pictures; the same one feeds samples, evaluation, API and web page."""
