"""Training a LoRA: the loss, the batch schedule and the checkpoints around `transformers.Trainer`.

Knows nothing of evaluation: the caller validates when it is called back at the end of an epoch.
"""
