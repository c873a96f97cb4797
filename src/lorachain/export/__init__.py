"""How a chain leaves the house."""
