"""Helpers of this directory's tests: transactions."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from gaudi_patch.disk import Disk

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


class Hook(Disk):
    """Calls ``action`` before each step that ``when`` matches."""

    def __init__(self, name: str, where: Callable[[Path], bool], action: Callable[[], None], times: int = 1) -> None:
        self.name, self.where, self.action, self.left = name, where, action, times

    def step(self, name: str, path: Path) -> None:
        if self.left and name == self.name and self.where(path):
            self.left -= 1
            self.action()


def _raise(error: BaseException) -> Callable[[], None]:
    def action() -> None:
        raise error

    return action


def at(target: Path) -> Callable[[Path], bool]:
    return lambda path: path == target


def _replace(path: Path, data: bytes) -> None:
    temp = path.with_name("theirs")
    temp.write_bytes(data)
    temp.replace(path)
