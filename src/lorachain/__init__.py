"""Chained LoRA for Korean medicine on Gemma 3, with a proof for every link of the chain."""

__version__ = "0.2.0"
