"""Kinds of text and image: how captions are built up and what they mean. Contract: `contracts.Domain`."""
