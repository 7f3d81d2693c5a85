"""Transports: ways to run a command on another machine."""
