"""A minimal but valid ``lmcache`` wheel, built from a dict of files in a millisecond.

Most tests need an installation with known bytes, not the 30 MB of the real one. The wheel installs with
pip and uv like any other: METADATA, WHEEL and a RECORD with right hashes and sizes.
"""

from __future__ import annotations

import base64
import hashlib
import textwrap
import zipfile
from collections.abc import Mapping
from pathlib import Path

#: The default contents of a wheel.
DEFAULT_FILES: Mapping[str, str | bytes] = {
    "lmcache/__init__.py": "# SPDX-License-Identifier: Apache-2.0\n",
    "lmcache/engine.py": "def device():\n    return 'cuda'\n",
    "lmcache/v1/__init__.py": "",
    "lmcache/v1/memory.py": "PINNED = True\n\n\ndef copy(src, dst):\n    dst[:] = src\n",
}

#: Zip entries carry this time, so that two builds of one wheel are byte-equal.
_TIME = (2020, 1, 1, 0, 0, 0)


def metadata(version: str, name: str = "lmcache", requires: str = "") -> bytes:
    """Return the METADATA file of a release; ``requires`` are whole lines."""
    return f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{requires}\nVersion: not-a-header\n".encode()


def record_row(path: str, content: bytes) -> str:
    """Return one RECORD row: path, urlsafe base64 of the SHA-256 without padding, size in bytes."""
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    return f"{path},sha256={digest},{len(content)}"


def fake_wheel(
    directory: Path,
    version: str = "0.5.6",
    files: Mapping[str, str | bytes] | None = None,
    *,
    name: str = "lmcache",
    requires: str = "",
) -> Path:
    """Write ``<name>-<version>-py3-none-any.whl`` into ``directory`` and return its path.

    ``files`` maps paths relative to site-packages to their content (text is written as UTF-8, bytes as they
    are); the default is ``DEFAULT_FILES``. Two calls with the same arguments give byte-equal wheels.
    """
    info = f"{name}-{version}.dist-info"
    content = {
        path: data.encode() if isinstance(data, str) else data
        for path, data in (DEFAULT_FILES if files is None else files).items()
    }
    content[f"{info}/METADATA"] = metadata(version, name, requires)
    content[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: tests (1)\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    rows = [record_row(path, data) for path, data in content.items()]
    content[f"{info}/RECORD"] = ("\n".join([*rows, f"{info}/RECORD,,"]) + "\n").encode()

    directory.mkdir(parents=True, exist_ok=True)
    wheel = directory / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, data in content.items():
            entry = zipfile.ZipInfo(path, _TIME)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, data)
    return wheel


def unpack(wheel: Path, site_packages: Path, installer: str = "pip") -> Path:
    """Unpack a wheel into ``site_packages`` as an installer would, without running one; return its dist-info.

    RECORD gets the rows an installer adds and its line ends (pip writes CRLF, uv LF). For tests that need the shape of
    an installation and not the tool itself; the integration tests run real pip and uv.
    """
    site_packages.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site_packages)
        names = archive.namelist()
    (info_name,) = {name.split("/", 1)[0] for name in names if ".dist-info/" in name}
    info = site_packages / info_name
    installer_file = f"{installer}\n".encode()
    (info / "INSTALLER").write_bytes(installer_file)
    end = b"\r\n" if installer == "pip" else b"\n"
    rows = (info / "RECORD").read_bytes().splitlines()
    rows.append(record_row(f"{info_name}/INSTALLER", installer_file).encode())
    (info / "RECORD").write_bytes(b"".join(row + end for row in rows))
    return info


def fake_project(directory: Path, version: str = "0.5.6", files: Mapping[str, str | bytes] | None = None) -> Path:
    """Write a source tree of ``lmcache`` built by setuptools, for editable installs; return it."""
    for path, data in (DEFAULT_FILES if files is None else files).items():
        file = directory / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data.encode() if isinstance(data, str) else data)
    (directory / "pyproject.toml").write_text(
        textwrap.dedent(
            f"""\
            [build-system]
            requires = ["setuptools>=64"]
            build-backend = "setuptools.build_meta"

            [project]
            name = "lmcache"
            version = "{version}"

            [tool.setuptools.packages.find]
            include = ["lmcache*"]
            """
        )
    )
    return directory
