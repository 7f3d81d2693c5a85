"""Images to scores: mergeable metrics with their intervals and anchors, and the report."""
