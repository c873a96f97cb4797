"""Whether a model fits: memory of each stage and disk from its config.json, and a configuration for a card."""
