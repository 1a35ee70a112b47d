"""The cases of level kernels, by subject."""
