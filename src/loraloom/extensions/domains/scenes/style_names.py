"""Names of the styles that scenes are painted in. Nothing is imported here: help and captions need names only."""

STYLES = ("flat", "watercolour", "cartoon", "anime", "sketch", "night", "pixel")
