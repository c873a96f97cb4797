"""Weights: loading, adapters, merging, composing. The only room that imports peft."""
