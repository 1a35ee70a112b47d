"""The type of what comes from torch, vLLM and LMCache: this package is type-checked without them."""

from typing import Any, TypeAlias

Foreign: TypeAlias = Any
