"""Inference without gradients: forward passes over shared prefixes, generation, log-probabilities."""
