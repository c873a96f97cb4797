"""Exports of a finished chain: merged weights, one adapter, GGUF, with model card and notices."""
