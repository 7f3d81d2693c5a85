"""The fixtures of `tests/generate`: adapters and sessions that generate small images quickly."""

from tests.generate.conftest import adapter, make_adapter, session_of

__all__ = ["adapter", "make_adapter", "session_of"]
