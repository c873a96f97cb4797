"""A model read without gradients: forward passes over shared prefixes, generation, log-probabilities."""
