# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ANN401 -- LMCache's objects differ between releases and have no types here
"""Memory objects from LMCache's storage: complete, or not at all.

LMCache reads a file into a memory object without looking at how much came (``LocalDiskBackend.read_file``), raises at a
file that ends early on one path and logs it on another. Here a stored chunk is looked at before it is read; a damaged
file is named and moved aside, so that nobody meets it again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..logging import init_logger
from . import compat

__all__ = ["Objects"]

logger = init_logger(__name__)

_HOST = "LocalCPUBackend"
_DISK = "LocalDiskBackend"
_ASIDE = ".damaged"


class Objects:
    """Access to the chunks in an engine's storage.

    Args:
        engine: LMCache's engine.
    """

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self._manager = engine.storage_manager

    def get(self, place: str, chunks: Sequence[tuple[int, int, Any]]) -> list[tuple[int, int, Any, Any]]:
        """Load chunks into host memory.

        Args:
            place: LMCache's name of the backend that has them.
            chunks: First token, one past the last, key.

        Returns:
            The leading ones that are whole, each with its memory object, to which the caller has a reference.
        """
        lengths = {key: end - start for start, end, key in chunks}
        keys = self.whole(place, list(lengths), lengths)
        objects = self._load(place, keys[: self._room(place, keys, lengths)])
        found = []
        for (start, end, key), memory_obj in zip(chunks, objects, strict=False):
            sound = memory_obj is not None and self.fits(memory_obj, end - start)
            if not sound or self._fault(place, key, end - start, read=True) is not None:
                self._set_aside(place, key, lengths[key])
                break
            found.append((start, end, key, memory_obj))
        for memory_obj in objects[len(found) :]:
            if memory_obj is not None:
                memory_obj.ref_count_down()
        return found

    def whole(
        self, place: str, keys: Sequence[Any], lengths: dict[Any, int] | None = None, *, read: bool = False
    ) -> list[Any]:
        """Return the leading keys whose files, where the backend has files, are as long as they must be.

        Args:
            place: The backend's name.
            keys: The chunks' keys.
            lengths: Their lengths in tokens; default: whole chunks.
            read: They were read just now. A file that was cut or removed meanwhile may have been read in part: LMCache
                reads a missing one without an error.
        """
        full = compat.chunk_size(self._engine.config, self._engine.metadata)
        intact = []
        for key in keys:
            if self._fault(place, key, (lengths or {}).get(key, full), read=read) is not None:
                self._set_aside(place, key, (lengths or {}).get(key, full))
                break
            intact.append(key)
        return intact

    def fits(self, memory_obj: Any, tokens: int | None = None) -> bool:
        """Return whether a memory object holds KV of this model for ``tokens`` tokens (default: of a whole chunk)."""
        if memory_obj is None:
            return False
        shapes, dtypes = self._expected(tokens or compat.chunk_size(self._engine.config, self._engine.metadata))
        try:
            tensors = compat.object_tensors(memory_obj, len(shapes))
        except (ValueError, IndexError, AssertionError, RuntimeError):  # a shape that does not fit its bytes
            return False
        found = [(tuple(tensor.shape), tensor.dtype) for tensor in tensors]
        return found == list(zip(shapes, dtypes, strict=True)) and self._engine.gpu_connector.reads(memory_obj)

    def _expected(self, tokens: int) -> tuple[list[tuple[int, ...]], list[Any]]:
        return compat.object_shapes(self._engine.metadata, tokens)

    def _bytes(self, tokens: int) -> int:
        shapes, dtypes = self._expected(tokens)
        return sum(math.prod(shape) * dtype.itemsize for shape, dtype in zip(shapes, dtypes, strict=True))

    def _room(self, place: str, keys: Sequence[Any], lengths: dict[Any, int]) -> int:
        """Return how many of the chunks host memory takes now; LMCache's own way is to wait until it does."""
        if place == _HOST:
            return len(keys)
        taken = []
        try:
            for key in keys:
                shapes, dtypes = compat.allocation(*self._expected(lengths[key]))
                memory_obj = self._manager.allocate(shapes, dtypes, busy_loop=False)
                if memory_obj is None:
                    break
                taken.append(memory_obj)
            return len(taken)
        finally:
            for memory_obj in taken:
                memory_obj.ref_count_down()

    def _load(self, place: str, keys: list[Any]) -> list[Any]:
        """Return an object or None per key; one by one where the backend fails at all of them together."""
        if not keys:
            return []
        try:
            return list(self._manager.batched_get(keys=keys, location=place) or [])
        except Exception:
            logger.exception("%d chunks could not be read from %s together", len(keys), place)
        found: list[Any] = []
        for key in keys:
            try:
                (memory_obj,) = self._manager.batched_get(keys=[key], location=place) or [None]
            except Exception:
                logger.exception("chunk %s could not be read from %s", key, place)
                memory_obj = None
            found.append(memory_obj)
            if memory_obj is None:
                break
        return found

    def _file(self, place: str, key: Any) -> tuple[Path | None, int]:
        """Return the file that holds a chunk, None if the backend has none, and the length of its header."""
        backend = self._manager.storage_backends.get(place)
        if place == _DISK:
            entry = backend.dict.get(key)
            return (Path(entry.path), 0) if entry is not None else (None, 0)
        connection: Any = getattr(backend, "connection", None)
        while hasattr(connection, "_connector"):  # instrumented
            connection = connection._connector
        path_of = getattr(connection, "_get_file_path", None)
        if path_of is None:
            return None, 0
        return Path(path_of(key)), compat.header_bytes(connection)

    def _fault(self, place: str, key: Any, tokens: int, *, read: bool = False) -> str | None:
        """Return what is wrong with a chunk's file; None if nothing is, or if there is none and it was not read."""
        path, header = self._file(place, key)
        if path is None:
            return "gone" if read and place == _DISK else None
        try:
            size = path.stat().st_size
            if not header:
                expected = self._bytes(tokens)
                return None if size == expected else f"{size} bytes, where {expected} are expected"
            with path.open("rb") as stream:
                start = stream.read(header)
            length = compat.payload_bytes(start) if len(start) == header else None
        except OSError as error:
            return str(error)
        if length is None:
            return f"no readable header in {size} bytes"
        return None if size == header + length else f"{size} bytes, where its header announces {header + length}"

    def _set_aside(self, place: str, key: Any, tokens: int) -> None:
        """Log a damaged file, and move it to where no lookup finds it."""
        fault = self._fault(place, key, tokens)
        path, _ = self._file(place, key)
        if fault is None or path is None:
            return
        aside = path.with_name(path.name + _ASIDE)
        try:
            path.replace(aside)
            logger.error("%s is damaged (%s): a miss; moved to %s", path, fault, aside.name)
        except FileNotFoundError:
            pass
        except OSError as error:  # a file system that turned read-only, as at a damage; no permission
            logger.error("%s is damaged (%s): a miss; it could not be moved aside: %s", path, fault, error)
        if place == _DISK:
            self._forget_on_disk(key, path)

    def _forget_on_disk(self, key: Any, path: Path) -> None:
        # LMCache's remove() deletes the file, which is no longer there; it must find one to forget the key.
        backend = self._manager.storage_backends[_DISK]
        try:
            path.touch()
            backend.remove(key)
        except OSError as error:  # the directory is missing or not writable
            logger.error("%s: %s", path, error)
            backend.dict.pop(key, None)
