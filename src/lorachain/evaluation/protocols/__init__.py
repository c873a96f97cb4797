"""Evaluation protocols: ways to score a model on an exam. Each result carries its protocol's name and version."""
