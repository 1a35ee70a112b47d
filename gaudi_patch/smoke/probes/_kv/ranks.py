"""The ranks of a tensor-parallel group in one process, in sequence: the first rank's messages are kept."""

from __future__ import annotations

import collections
import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gaudi_patch.smoke.probes import _probe
    from gaudi_patch.smoke.probes._probe import Foreign
else:  # run by path, beside this file
    import _probe


class Wire:
    """The broadcasts of rank 0 of two, for rank 1 to receive in order."""

    def __init__(self) -> None:
        self.sent: collections.deque[Foreign] = collections.deque()

    def send_tensor(self, tensor: Foreign, source: int) -> None:
        """Send like vLLM's ``tp_group.broadcast`` on the source rank."""
        self.sent.append(tensor.clone())

    def send_object(self, value: object, source: int) -> object:
        """Send like vLLM's ``tp_group.broadcast_object`` on the source rank."""
        self.sent.append(value)
        return value

    def receive_tensor(self, tensor: Foreign, source: int) -> None:
        """Receive into an allocated tensor, as on another rank."""
        tensor.copy_(self.sent.popleft())

    def receive_object(self, value: object, source: int) -> object:
        """Receive an object, as on another rank."""
        return self.sent.popleft()


class Nobody:
    """The other end of a group of one rank: counts the broadcasts."""

    def __init__(self) -> None:
        self.broadcasts = 0

    def send_tensor(self, tensor: Foreign, source: int) -> None:
        """Send like vLLM's ``tp_group.broadcast``, which returns at once in a group of one."""
        self.broadcasts += 1

    def send_object(self, value: object, source: int) -> object:
        """Send like vLLM's ``tp_group.broadcast_object``, which returns the value."""
        self.broadcasts += 1
        return value


@contextlib.contextmanager
def devices_named() -> Iterator[list[str]]:
    """Note the devices with a number that PyTorch is given by name in this thread.

    A Gaudi process has one device, number 0 whatever the rank. A number made from the rank is another one on a host
    with several cards, and 0 here.
    """
    found: list[str] = []
    mode: Foreign = _probe.load("torch.overrides").TorchFunctionMode

    class Names(mode):  # type: ignore[misc]
        def __torch_function__(
            self, function: Foreign, types: Foreign, args: Foreign = (), kwargs: Foreign = None
        ) -> Foreign:
            options = kwargs or {}
            found.extend(value for value in (*args, *options.values()) if _is_numbered(value))
            return function(*args, **options)

    with Names():
        yield found


def _is_numbered(value: object) -> bool:
    return isinstance(value, str) and value.partition(":")[0] in ("hpu", "cuda") and ":" in value
