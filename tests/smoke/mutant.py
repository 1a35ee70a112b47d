"""What a mutant is: a deliberate fault of the patched LMCache, and how it is put in and taken out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Mutant:
    """A fault.

    name: what is wrong. file: below site-packages. old, new: the edit; ``old`` occurs exactly once.
    level, rules: where it has to be seen. cases: ``--cases`` of the level's probe, where a part of it is enough.
    """

    name: str
    file: str
    old: str
    new: str
    level: str = "kernels"
    rules: str = "lazy"
    cases: str = ""

    def arguments(self) -> dict[str, list[str]]:
        """Return the options of the level's probe."""
        return {self.level: ["--cases", self.cases]} if self.cases else {}

    @contextlib.contextmanager
    def put_into(self, site_packages: Path) -> Iterator[None]:
        """Edit the file for the time of the block.

        Raises ValueError where the edit does not fit exactly once, SyntaxError where its result is no Python.
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


#: Where the runtime is, below site-packages.
RUNTIME = "lmcache/gaudi"
