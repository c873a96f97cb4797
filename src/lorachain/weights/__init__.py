"""Weights: loading, adapters, merging, composing. The only package that imports peft."""
