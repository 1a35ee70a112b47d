"""A small manifest with every kind of table, as TOML and as a lock; its patches do not exist."""

from __future__ import annotations

import json
from pathlib import Path

from gaudi_patch.authoring import source
from gaudi_patch.series import lock
from gaudi_patch.series.manifest import Manifest, load

TEXT = """\
schema = 2
package = "lmcache"

[[series]]
versions = "==0.5.6"
patches = ["runtime/a.patch", "adapter/b.patch"]
notes = "see below"

[[series]]
id = "older"
versions = ">=0.4.1,<0.4.3"
patches = [
    "runtime/a.patch",
]

[[capability]]
id = "fast"
summary = "it is fast"
evidence = "a test"
smoke = ["kernels"]

[[refused]]
versions = "<0.3.7"
reason = "too old"
advice = "move to 0.4.2"

[[upstream]]
versions = ">=0.6"
reason = "upstream has it"

[[pairs]]
lmcache = "==0.5.6"
vllm_gaudi = [">=0.14.1,<=0.17.1"]

[patch."runtime/a.patch"]
title = "t"
why = "w"
upstream = "u"
remove_when = "r"

[patch."adapter/b.patch"]
title = "t"
why = "w"
upstream = "u"
remove_when = "r"
capabilities = ["fast"]
"""


def write(folder: Path, text: str | bytes = TEXT) -> Path:
    """Write only manifest.toml."""
    (folder / lock.SOURCE).write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


def write_locked(folder: Path, text: str = TEXT) -> Path:
    """Write manifest.toml and a lock in which no file has a hash."""
    read = source.load(write(folder, text))
    content = lock.Content(*read[1:])
    (folder / lock.NAME).write_bytes(lock.render(content, text.encode()))
    return folder


def made(folder: Path, text: str = TEXT) -> Manifest:
    """Return the manifest as a run parses it."""
    return load(write_locked(folder, text))


def document(folder: Path) -> dict[str, object]:
    """Return the lock's JSON."""
    found: dict[str, object] = json.loads((folder / lock.NAME).read_bytes())
    return found
