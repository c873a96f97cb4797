"""The command line. Commands are thin: they parse, build a context, call a room, and print."""

from lorachain.cli.app import main

__all__ = ["main"]
