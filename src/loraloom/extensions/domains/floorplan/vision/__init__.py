"""Images of plans: read them back, straighten, clean, measure."""
