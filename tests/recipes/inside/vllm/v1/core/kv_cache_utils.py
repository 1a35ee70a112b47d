"""vLLM's first hash: from the seed, through the same function."""

import os


def init_none_hash(function: object) -> None:
    global NONE_HASH
    NONE_HASH = function(os.environ["PYTHONHASHSEED"])  # type: ignore[operator]
