"""Kinds of text and image: how captions are structured and what they mean. Contract: `contracts.Domain`."""
