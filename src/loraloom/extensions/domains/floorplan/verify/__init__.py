"""Text against image: receipts, repair masks, metrics and their anchors."""
