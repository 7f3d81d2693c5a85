"""Domains: kinds of text and image, with the structure and meaning of their captions. Protocol: `protocols.domain.Domain`."""
