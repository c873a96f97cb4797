"""The parts of `benchmarks/training.py`: workloads, models, contenders, counting, reporting."""
