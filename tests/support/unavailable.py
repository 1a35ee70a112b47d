"""The response of a test to an unavailable environment."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest

from tests.support.environments import EnvironmentUnavailableError

#: In CI nothing may be missing: there, an environment that cannot be made is a failure.
REQUIRED = os.environ.get("GAUDI_PATCH_TEST_REQUIRE_ENVIRONMENTS") == "1"


def unavailable(error: EnvironmentUnavailableError) -> NoReturn:
    """Skip with the reason; with GAUDI_PATCH_TEST_REQUIRE_ENVIRONMENTS=1 (as in CI) fail instead."""
    if REQUIRED:
        raise error
    pytest.skip(f"environment not available: {error}")
