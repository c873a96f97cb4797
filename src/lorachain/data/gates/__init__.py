"""What every source passes before it is trained on: contamination, personal data, duplicates, quality."""
