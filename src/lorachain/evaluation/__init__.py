"""Exam protocols, their statistics and results, perplexity, and exact match."""
