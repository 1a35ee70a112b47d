"""A mutant: a deliberate fault of the patched LMCache, and how it is applied and reverted."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Mutant:
    """A fault.

    name: the fault in words. file: path below site-packages. old, new: the edit; ``old`` occurs exactly once. level,
    rules: where the fault must be detected. cases: ``--cases`` of the level's probe, if a part of it is enough.
    release: the LMCache release that gets the fault.
    """

    name: str
    file: str
    old: str
    new: str
    level: str = "kernels"
    rules: str = "lazy"
    cases: str = ""
    release: str = "0.5.6"

    @property
    def needs_vllm(self) -> bool:
        """Return whether the level runs vLLM."""
        return self.level in ("connector", "inference")

    def arguments(self) -> dict[str, list[str]]:
        """Return the options of the level's probe."""
        return {self.level: ["--cases", self.cases]} if self.cases else {}

    @contextlib.contextmanager
    def put_into(self, site_packages: Path) -> Iterator[None]:
        """Apply the edit for the duration of the block.

        Raises ValueError if the edit does not match exactly once, SyntaxError if its result is not valid Python.
        """
        file = site_packages / self.file
        sound = file.read_text()
        if sound.count(self.old) != 1:
            raise ValueError(f"{self.name}: the text to change is {sound.count(self.old)} times in {self.file}")
        faulty = sound.replace(self.old, self.new)
        compile(faulty, str(file), "exec")
        file.write_text(faulty)
        try:
            yield
        finally:
            file.write_text(sound)


#: The runtime's directory, below site-packages.
RUNTIME = "lmcache/gaudi"


def each(mutants: Iterable[Mutant], **changes: str) -> tuple[Mutant, ...]:
    """Return the mutants with some of their fields changed."""
    return tuple(dataclasses.replace(mutant, **changes) for mutant in mutants)
