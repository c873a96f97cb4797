"""Mutation testing of lorachain: `benchmarks/mutants.py`, docs/testing.md."""
