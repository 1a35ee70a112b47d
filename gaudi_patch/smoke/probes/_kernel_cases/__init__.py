"""The cases of level kernels, by what they look at."""
