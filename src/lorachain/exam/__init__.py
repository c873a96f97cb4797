"""Scores that can be believed: letters, options, perplexity, recall, and their statistics."""
