"""Code shared by the families that are built on diffusers and transformers."""
