"""The compiled kernels: building them, loading them, and running them through CuPy."""
