"""Elementwise work of training as single operators: Triton kernels on CUDA, plain PyTorch elsewhere."""
