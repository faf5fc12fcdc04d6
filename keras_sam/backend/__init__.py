"""What differs between TensorFlow, JAX and PyTorch, and between a CPU and accelerators."""
