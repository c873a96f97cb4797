"""Checks before money is spent: the machine, the hub, a model's files, the model in memory, a server, the data."""
