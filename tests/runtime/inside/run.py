"""Runs pytest with the arguments given: a script, since that is what the emulated HPU starts."""

import sys

import pytest

if __name__ == "__main__":
    sys.exit(pytest.main(sys.argv[1:]))
