"""The ranks of a tensor-parallel group in one process, one after the other: what the first one sends is kept."""

from __future__ import annotations

import collections
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gaudi_patch.smoke.probes._probe import Foreign


class Wire:
    """What rank 0 of two has broadcast, for rank 1 to receive, in order."""

    def __init__(self) -> None:
        self.sent: collections.deque[Foreign] = collections.deque()

    def send_tensor(self, tensor: Foreign, source: int) -> None:
        """As the source: ``tp_group.broadcast`` of vLLM."""
        self.sent.append(tensor.clone())

    def send_object(self, value: object, source: int) -> object:
        """As the source: ``tp_group.broadcast_object`` of vLLM."""
        self.sent.append(value)
        return value

    def receive_tensor(self, tensor: Foreign, source: int) -> None:
        """As another rank: into a tensor that it has allocated."""
        tensor.copy_(self.sent.popleft())

    def receive_object(self, value: object, source: int) -> object:
        """As another rank, which gives nothing."""
        return self.sent.popleft()


class Nobody:
    """The other end of a group of one rank: it counts what is broadcast to it."""

    def __init__(self) -> None:
        self.broadcasts = 0

    def send_tensor(self, tensor: Foreign, source: int) -> None:
        """As ``tp_group.broadcast`` of vLLM, which returns at once in a group of one."""
        self.broadcasts += 1

    def send_object(self, value: object, source: int) -> object:
        """As ``tp_group.broadcast_object`` of vLLM, which gives the value back."""
        self.broadcasts += 1
        return value
