"""Scores of generated images: each metric one file."""
