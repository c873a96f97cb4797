"""Temporary."""

NORMALIZATION_VERSION = 1
