"""Artifacts as tables, and progress in the terminal."""
