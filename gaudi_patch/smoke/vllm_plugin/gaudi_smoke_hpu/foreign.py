"""The type of objects from torch, vLLM and LMCache: this package is type-checked without them."""

from typing import Any, TypeAlias

Foreign: TypeAlias = Any
