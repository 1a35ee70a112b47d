"""A stand-in for vLLM that serves one prompt, started by a recipe's script in tests of stores."""

__version__ = "0.26.0"
