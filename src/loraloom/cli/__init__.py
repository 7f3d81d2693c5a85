"""The command line. `main` is the entry point `loraloom`; longer verbs have modules of their own."""

from loraloom.cli.app import main

__all__ = ["main"]
