"""Who speaks when a picture has no text. Contract: `contracts.Captioner`."""
