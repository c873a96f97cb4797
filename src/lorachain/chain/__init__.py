"""The stages and their order; the only room that knows it."""
