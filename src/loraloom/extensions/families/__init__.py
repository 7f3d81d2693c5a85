"""Kinds of model: how one is opened, what it answers. Contract: `contracts.Family`."""
