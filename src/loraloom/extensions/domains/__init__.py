"""Kinds of text and picture: how captions are built up and what they mean. Contract: `contracts.Domain`."""
