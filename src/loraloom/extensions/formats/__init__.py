"""Folder layouts that `prepare` reads. Protocol: `protocols.data.Format`."""
