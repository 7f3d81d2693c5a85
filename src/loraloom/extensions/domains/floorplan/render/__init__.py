"""Render plans, verdicts and sheets with PIL or in a terminal."""
