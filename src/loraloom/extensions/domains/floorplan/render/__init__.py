"""Plans, verdicts and sheets drawn with PIL or in a terminal."""
