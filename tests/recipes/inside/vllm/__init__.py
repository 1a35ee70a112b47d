"""A stand-in for vLLM that serves one prompt: what a recipe's script becomes in tests of stores."""

__version__ = "0.26.0"
