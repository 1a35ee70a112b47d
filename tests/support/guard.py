"""One guard of the product, and the edit that removes it."""

from __future__ import annotations

from typing import NamedTuple


class Guard(NamedTuple):
    """One guard of the product.

    Attributes:
        name: What it does.
        file: Its file, relative to the checkout.
        code: Text that occurs exactly once; ``without`` replaces it.
        tests: Test files, one of which must fail.
    """

    name: str
    file: str
    code: str
    without: str
    tests: tuple[str, ...]
