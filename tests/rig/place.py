"""A small LMCache on its own disk, with neighbours that must not be touched, and its possible states.

The package has several changed ``__init__``, files that are removed, added or change mode, and unchecked bytecode. One
of two series is older, and the other replaces it. All files have fixed dates, so a state is one byte image.
"""

from __future__ import annotations

import os
import py_compile
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.rig import trace
from tests.rig.trace import Done, Fault
from tests.rig.tree import Tree, bytecode_faults, differences, record_faults, restore, snapshot
from tests.support import tiny
from tests.support.cli import environment
from tests.support.fake_wheel import fake_wheel, unpack

VERSION = "0.5.6"
DIST_INFO = f"lmcache-{VERSION}.dist-info"

PRISTINE: Mapping[str, bytes] = {
    "lmcache/__init__.py": b"# SPDX-License-Identifier: Apache-2.0\n",
    "lmcache/engine.py": b"def device():\n    return 'cuda'\n",
    "lmcache/notes.txt": b"caf\xe9 \x00\nno newline at the end",
    "lmcache/tool.sh": b"#!/bin/sh\n",
    "lmcache/v1/__init__.py": b"KIND = 'cuda'\n",
    "lmcache/v1/gpu/__init__.py": b"BLOCK = 16\n",
    "lmcache/v1/old.py": b"import torch.cuda\n",
    "lmcache/v1/untouched.py": b"ANSWER = 42\n",
}
#: The files as the older series leaves them; None: deleted.
OLD: Mapping[str, bytes | None] = {
    "lmcache/__init__.py": b"# SPDX-License-Identifier: Apache-2.0\nOLD = 1\n",
    "lmcache/engine.py": b"def device():\n    return 'hpu, once'\n",
    "lmcache/v1/__init__.py": b"KIND = 'hpu'\n",
    "lmcache/v1/hpu/__init__.py": b"BLOCK = 64\n",
}
NEW: Mapping[str, bytes | None] = {
    "lmcache/__init__.py": b"# SPDX-License-Identifier: Apache-2.0\nNEW = 2\n",
    "lmcache/engine.py": b"def device():\n    return 'hpu'\n",
    "lmcache/notes.txt": b"caf\xe9 \x00\nno newline at the end, still",
    "lmcache/tool.sh": PRISTINE["lmcache/tool.sh"],
    "lmcache/v1/__init__.py": b"KIND = 'hpu'\n",
    "lmcache/v1/gpu/__init__.py": b"BLOCK = 128\n",
    "lmcache/v1/old.py": None,
    "lmcache/gaudi/__init__.py": b"from lmcache.gaudi import kernels\n",
    "lmcache/gaudi/kernels.py": b"BLOCK = 128\n",
}
EXECUTABLE = frozenset({"lmcache/tool.sh"})
EDITED = b"def device():\n    return 'hpu, as I like it'\n"

#: 2020 and 2023: the release's files are older than those written later.
INSTALLED_NS = 1_577_836_800 * 10**9
WRITTEN = "1700000000"


def is_ours(name: str) -> bool:
    """Return whether a path below the top belongs to the package, or is a requested copy."""
    return name.startswith(("site/lmcache/", f"site/{DIST_INFO}/", "saved/"))


@dataclass
class Place:
    """``top`` holds the disk under attack; each worker has its own place, since bytecode contains absolute paths.

    ``states`` maps a name ("pristine", "old", "new", "edited") to the possible trees of the package and its dist-info:
    just one unless there is a fault. ``start`` copies an image to ``top``, ``keep`` makes an image of ``top``.
    """

    folder: Path
    states: dict[str, list[Tree]] = field(default_factory=dict)
    #: Faults of clean runs: a state that differs from the series, or depends on how it was reached.
    faults: list[str] = field(default_factory=list)

    @property
    def top(self) -> Path:
        return self.folder / "disk"

    @property
    def manifests(self) -> Path:
        return self.folder / "manifests"

    @property
    def site(self) -> Path:
        return self.top / "site"

    def image(self, name: str) -> Path:
        return self.folder / "images" / name

    def start(self, name: str) -> None:
        restore(self.image(name), self.top)

    def keep(self, name: str) -> None:
        restore(self.top, self.image(name))

    def ours(self) -> Tree:
        return snapshot(self.top, is_ours)

    def others(self) -> Tree:
        return snapshot(self.top, lambda name: not is_ours(name))

    def command(self, verb: Sequence[str], series: str = "new", *, as_json: bool = False) -> list[str]:
        """Return the command line; ``verb`` is "apply" or "rollback", with options."""
        more = ["--no-smoke"] if verb[0] == "apply" else []
        more += ["--json"] if as_json else []
        target = ["--path", str(self.site), "--manifest", str(self.manifests / series)]
        return [sys.executable, "-m", "gaudi_patch", *verb, *target, *more]

    def run(self, command: Sequence[str], fault: Fault | None = None, *, counted: bool = False) -> Done:
        """Run the command; the trace has calls that change something, or with ``counted`` all calls below ``top``."""
        env = environment(
            # With the site on its path, gaudi-patch's interpreter is the target's: bytecode is recompiled.
            PYTHONPATH=f"{Path(__file__).parents[2]}{os.pathsep}{self.site}",
            PYTHONHASHSEED="0",
            SOURCE_DATE_EPOCH=WRITTEN,
            HOME=str(self.top / "home"),
            TMPDIR=str(self.top / "tmp"),
        )
        level = "counted" if counted else "changes"
        # A command reads the manifest first; earlier calls belong to the interpreter's start.
        return trace.run(
            command, env=env, roots=[self.top], fault=fault, log_level=level, after=self.manifests, timeout=120
        )

    def save_to(self) -> list[str]:
        return ["--save-to", str(self.top / "saved")]


def make(folder: Path) -> Place:
    """Create a place, bring it into each state without a fault, and check each state.

    Raises AssertionError if a clean run does not end with 0, or touches files of others.
    """
    place = Place(folder.resolve())
    wheel = fake_wheel(folder / "wheels", VERSION, dict(PRISTINE))
    for name, patched in (("old", OLD), ("new", NEW)):
        data = tiny.patch(PRISTINE, patched, EXECUTABLE & set(patched))
        tiny.write_manifest(place.manifests / name, {VERSION: {f"{name}.patch": data}}, {VERSION: wheel})
    for name in ("home", "tmp", "saved", "outside"):
        (place.top / name).mkdir(parents=True)
    (place.top / "outside/passwd").write_text("root:x:0:0\n")
    unpack(fake_wheel(folder / "wheels", "1", {"other/__init__.py": "A = 1\n"}, name="other"), place.site)
    unpack(wheel, place.site)
    _compile(place.site)
    for file in place.top.rglob("*"):
        os.utime(file, ns=(INSTALLED_NS, INSTALLED_NS))
    place.keep("pristine")
    _settle(place, "pristine", PRISTINE)
    _reach(place, "old", ["apply"], "old", OLD)
    _reach(place, "new", ["apply"], "new", NEW, start="old")  # an update; a first apply must give the same
    _reach(place, "new", ["apply"], "new", NEW, start="pristine")
    _reach(place, "pristine", ["rollback"], "new", PRISTINE, start="new")
    _reach(place, "pristine", ["rollback"], "old", PRISTINE, start="old")
    place.start("new")
    (place.site / "lmcache/engine.py").write_bytes(EDITED)
    os.utime(place.site / "lmcache/engine.py", ns=(INSTALLED_NS, INSTALLED_NS))
    place.keep("edited")
    place.states["edited"] = [{name: node for name, node in place.ours().items() if not name.startswith("saved/")}]
    return place


def _compile(site: Path) -> None:
    """Create unchecked bytecode, as image builders do, and list it in RECORD, as pip does."""
    rows = []
    for top in ("lmcache", "other"):
        for file in sorted((site / top).rglob("*.py")):
            mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
            for level in (0, 1) if file.name == "engine.py" else (0,):
                cached = py_compile.compile(str(file), invalidation_mode=mode, doraise=True, optimize=level)
                rows.append(f"{Path(cached).relative_to(site).as_posix()},,\r\n" if top == "lmcache" else "")
    with (site / DIST_INFO / "RECORD").open("ab") as record:
        record.write("".join(rows).encode())


def _reach(
    place: Place,
    state: str,
    verb: Sequence[str],
    series: str,
    files: Mapping[str, bytes | None],
    start: str = "pristine",
) -> None:
    place.start(start)
    others = place.others()
    done = place.run(place.command(verb, series))
    assert done.code == 0, f"{verb} on {start}: {done.code}\n{done.out}{done.err}"
    assert place.others() == others, f"{verb} on {start} changed what is not ours"
    _settle(place, state, files)
    if not place.image(state).exists():
        place.keep(state)


def _settle(place: Place, state: str, files: Mapping[str, bytes | None]) -> None:
    """Compare the tree with the expected files, and with the same state reached in another way."""
    for name, data in {**PRISTINE, **files}.items():
        file = place.site / name
        assert (file.read_bytes() if file.exists() else None) == data, f"{state}: {name}"
    now = {name: node for name, node in place.ours().items() if not name.startswith("saved/")}
    faults = [*record_faults(place.site, DIST_INFO), *bytecode_faults(place.site)]
    reached = place.states.setdefault(state, [])
    faults += differences(reached[0], now) if reached else []
    if now not in reached:
        reached.append(now)
    place.faults += [f"{state}: {fault}" for fault in faults]


def free_of_places(folder: Path) -> None:
    """Remove a place's files; thousands of copies would fill the memory that holds them."""
    shutil.rmtree(folder, ignore_errors=True)
