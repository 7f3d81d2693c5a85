"""The command line. `main` is the entry point `loraloom`; a verb that is more than a call has a module of its own."""

from loraloom.cli.app import main

__all__ = ["main"]
