"""The base class of settings, under the name that this room uses; extensions have it from `protocols.settings`."""

from loraloom.protocols.settings import Settings, setting

__all__ = ["Settings", "setting"]
