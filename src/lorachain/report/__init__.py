"""Reads JSON, draws tables."""
