"""Folder layouts that `prepare` reads. Contract: `contracts.Format`."""
