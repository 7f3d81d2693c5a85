"""Write captions for images that have no text. Contract: `contracts.Captioner`."""
