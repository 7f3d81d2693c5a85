"""Write captions for images that have no text. Protocol: `protocols.data.Captioner`."""
