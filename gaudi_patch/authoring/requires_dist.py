"""Renew target/requires_dist.json: ``python -m gaudi_patch.authoring.requires_dist WHEEL_OR_VERSION...``.

The wheel of a version is downloaded. The table's entries for other releases stay.
"""

from __future__ import annotations

import email
import json
import sys
import zipfile
from pathlib import Path

from gaudi_patch.authoring.wheels import fetch
from gaudi_patch.target.requirements import TABLE, table


def of_wheel(wheel: Path) -> tuple[str, list[str]]:
    """Return the version and the Requires-Dist lines of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [
            member for member in archive.namelist() if member.endswith(".dist-info/METADATA") and member.count("/") == 1
        ]
        headers = email.message_from_bytes(archive.read(name))
    return headers["Version"], headers.get_all("Requires-Dist") or []


def main(arguments: list[str]) -> None:
    """Read the wheels and write the table, one requirement per line."""
    from packaging.version import Version

    known = table() if TABLE.is_file() else {}
    for argument in arguments:
        version, requires = of_wheel(Path(argument) if argument.endswith(".whl") else fetch("lmcache", argument))
        known[version] = requires
    ordered = {version: known[version] for version in sorted(known, key=Version)}
    TABLE.write_text(json.dumps(ordered, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
