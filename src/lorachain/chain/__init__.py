"""The stages of the chain: their table, how they run, and their state. The only package that knows their order."""
