"""The loss, the batches and the checkpoints around `transformers.Trainer`. Does not know the exam room."""
