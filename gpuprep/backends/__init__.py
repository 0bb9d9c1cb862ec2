"""Where pixel work runs: the CPU, a CUDA device, or the plain NumPy reference."""
