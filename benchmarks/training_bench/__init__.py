"""The parts of `benchmarks/training.py`: workloads, models, contenders, operation counts."""
