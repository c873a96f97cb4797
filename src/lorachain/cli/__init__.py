"""The command line. Commands are thin: they parse, build a context, call a room, and print."""

from lorachain.cli.entry import main

__all__ = ["main"]
