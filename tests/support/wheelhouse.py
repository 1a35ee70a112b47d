"""A directory of wheels instead of PyPI: gaudi-patch of this checkout, LMCache, dependencies of both, hatchling."""

from __future__ import annotations

import shutil
from pathlib import Path

from gaudi_patch.target import requirements
from tests.support import environments, gaudi_image

REPOSITORY = Path(__file__).resolve().parents[2]
LMCACHE = "0.5.6"


def needs(python: Path) -> tuple[list[str], list[str]]:
    """Return what the Dockerfiles install besides LMCache over ``python``: requirements and their constraints."""
    there = requirements.distributions(python, environments.clean_environment())
    found = requirements.needs(LMCACHE, there)
    return list(found.missing), requirements.constraints(there, found)


def make(folder: Path) -> Path:
    """Fill ``folder``. Downloads from PyPI are kept in the cache of environments; gaudi-patch is built each time."""
    python = environments.torch_python()
    version = environments._interpreter(python).version
    folder.mkdir(parents=True)
    pip = [*environments._pip(), "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(REPOSITORY)]
    environments._call(pip, "cannot build the wheel of gaudi-patch")
    (built,) = folder.glob("gaudi_patch-*.whl")
    wanted, constraints = needs(python)
    pyproject = (REPOSITORY / "pyproject.toml").read_bytes()
    key = environments._digest(version.encode(), pyproject, repr((wanted, "hatchling")).encode())
    cached = environments.cache_dir() / "wheelhouses" / key
    with environments._made_once(cached) as missing:
        if missing:
            cached.mkdir(parents=True)
            download = [
                str(python),
                "-m",
                "pip",
                "download",
                "--quiet",
                "--only-binary",
                ":all:",
                "--dest",
                str(cached),
            ]
            # Separate: gaudi-patch has its own environment, and LMCache's constraints do not apply to it.
            environments._call([*download, str(built)], "cannot download what gaudi-patch imports")
            environments._call([*download, "hatchling>=1.21"], "cannot download what builds gaudi-patch")
            pins = cached / "constraints.txt"
            pins.write_text("\n".join(constraints))
            download += ["--constraint", str(pins), *wanted]
            environments._call(download, "cannot download what LMCache imports", 1800)
    for wheel in [*cached.glob("*.whl"), environments.wheel(LMCACHE, version)]:
        if not wheel.name.startswith("gaudi_patch-"):
            shutil.copy(wheel, folder)
    folder.chmod(0o755)
    return folder


def base_image(prefix: Path) -> Path:
    """Return an environment over the PyTorch environment, as in a Gaudi image: pip, Intel's plugin, no LMCache."""
    python = environments.torch_python()
    about = environments._interpreter(python)
    environments._call([str(python), "-m", "venv", "--without-pip", str(prefix)], "cannot make an environment")
    site = prefix / "lib" / f"python{about.version}" / "site-packages"
    (site / "_base_image.pth").write_text("".join(f"{path}\n" for path in {about.purelib, about.platlib}))
    gaudi_image.install_plugin(site)
    # The bare name would run the machine's own pip.
    for name in ("pip", "pip3"):
        script = prefix / "bin" / name
        script.write_text(f'#!/bin/sh\nexec {prefix}/bin/python3 -m pip "$@"\n')
        script.chmod(0o755)
    return prefix
