"""Who speaks when an image has no text. Contract: `contracts.Captioner`."""
