"""Reasoning for stage 02: written by a model, verified, selected, and recorded sample by sample."""
