"""Families: kinds of diffusion models. Protocol: `protocols.model.Family`."""
