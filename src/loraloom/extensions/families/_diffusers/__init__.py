"""What families that are built on diffusers and transformers share."""
