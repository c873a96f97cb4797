"""The ways in which an exam is put to a model, each with a name and a version that stand in every result."""
