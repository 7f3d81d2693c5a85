"""The base class of settings, re-exported for this room; extensions import `protocols.settings`."""

from loraloom.protocols.settings import Settings, setting

__all__ = ["Settings", "setting"]
