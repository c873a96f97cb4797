"""The command line. Commands parse, build a context, call the package, and print."""

from lorachain.cli.entry import main

__all__ = ["main"]
