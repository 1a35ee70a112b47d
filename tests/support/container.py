"""A stand-in for the container in which steps of CI files run, without an engine: a fresh directory as the root.

If the tests run as root, Dockerfiles are executed in a true root file system (tests/support/debian_root.py), otherwise
here.

Unchanged: every command, word for word, run by the same shell, with the variables that ARG, ENV or the CI system would
set. Replaced:

- the base image: a virtual environment over the tests' PyTorch environment, first on PATH, its PYTHONPATH set as in
  Habana's images (a directory that only root can read, and one without packages);
- PyPI: a directory of wheels, including gaudi-patch built from this checkout; nothing else can be reached;
- the image's own paths, /opt/gaudi-patch and others: the same below the root;
- USER: setpriv, if the tests run as root; that user may read everything, since the interpreter may be in root's home,
  but gets no right to write. Without root, the steps continue as the user who runs the tests;
- stages: one after the other in the same root, so only a chain of stages from one image can be executed;
- the build context: the directory of wheels, or ``context``.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.installers import uv_binary

TIMEOUT = 1200
PATHS = ("/opt/gaudi-patch", "/etc/gaudi-patch.json", "/tmp/wheels", "/tmp/needs", "/usr/local/bin/uv")


@dataclass
class Container:
    """A root of files and the environment of its shells. ``wheels`` replaces PyPI, ``base`` the base image."""

    root: Path
    base: Path
    wheels: Path
    env: dict[str, str] = field(default_factory=dict)
    arguments: dict[str, str] = field(default_factory=dict)
    user: str = "root"
    image: str = ""
    context: Path | None = None
    layered: bool = False

    def __post_init__(self) -> None:
        for folder in ("etc", "opt", "usr/local/bin", "home", "root", "tmp", "usr/lib/habanalabs", "stand-ins"):
            (self.root / folder).mkdir(parents=True, exist_ok=True)
        (self.root / "root").chmod(0o700)

    def stand_in(self, name: str, script: str) -> None:
        """Put a command first on PATH."""
        file = self.root / "stand-ins" / name
        file.write_text(script)
        file.chmod(0o755)

    def start(self, image: str) -> None:
        """FROM: set the variables of a Gaudi image, without any from the user who runs the tests."""
        self.image = image
        self.user, self.arguments = "root", {}
        path = [self.root / "stand-ins", self.root / "usr/local/bin", self.base / "bin", "/usr/bin", "/bin"]
        self.env = {
            "PATH": os.pathsep.join(map(str, path)),
            "HOME": str(self.root / "home"),
            "LANG": "C.UTF-8",
            "PYTHONPATH": f"{self.root}/root:{self.root}/usr/lib/habanalabs/",
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(self.wheels),
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PIP_NO_CACHE_DIR": "on",
            "UV_OFFLINE": "1",
            "UV_FIND_LINKS": str(self.wheels),
            "UV_PYTHON_DOWNLOADS": "never",
            # All roots share the compiled device.
            "HPU_EMULATOR_CACHE": os.environ.get("HPU_EMULATOR_CACHE", str(Path.home() / ".cache" / "hpu-emulator")),
        }

    def state(self) -> tuple[dict[str, str], str]:
        """Return the state of a stage besides its files."""
        return dict(self.env), self.user

    def resume(self, state: tuple[dict[str, str], str]) -> None:
        """FROM an earlier stage."""
        self.env, self.user, self.arguments = dict(state[0]), state[1], {}

    def copy(self, image: str, source: str, target: str) -> None:
        """COPY --from: only uv's image is known, and its uv is the tests' own."""
        assert image.startswith("ghcr.io/astral-sh/uv:") and source == "/uv", (image, source)
        shutil.copy(uv_binary(), target)

    def copy_from_context(self, pattern: str, target: str) -> None:
        (source,) = (self.context or self.wheels.parent).glob(pattern.rstrip("/"))
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True)
        else:
            shutil.copy(source, target)

    def copy_from_stage(self, state: object, source: str, target: str) -> None:
        raise NotImplementedError(f"COPY {source} {target}: there are no layers here")

    def run(
        self, command: Sequence[str], more: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as the container's user, who owns nothing."""
        prefix: list[str] = []
        if self.user != "root" and os.geteuid() == 0:
            # no_setuid_fixup: without it, access(2) ignores that right.
            kept = ["--securebits=+no_setuid_fixup", "--inh-caps=-all,+dac_read_search"]
            kept.append("--ambient-caps=+dac_read_search")
            uid, _, gid = self.user.partition(":")
            prefix = ["setpriv", f"--reuid={uid}", f"--regid={gid or 0}", "--clear-groups", *kept]
        return subprocess.run(
            [*prefix, *command],
            env={**self.env, **(more or {})},
            cwd=cwd or self.root,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=TIMEOUT,
            check=False,
        )

    def here(self, text: str) -> str:
        """Return a text with the image's paths replaced by those below the root."""
        for path in PATHS:
            text = text.replace(path, f"{self.root}{path}")
        return text

    def save(self, name: str = "container") -> None:
        """Save the state, so that another process can continue."""
        about = {"base": str(self.base), "wheels": str(self.wheels), "env": self.env, "user": self.user}
        (self.root / f"{name}.json").write_text(json.dumps(about))

    @classmethod
    def load(cls, root: Path, name: str = "container") -> Container:
        about = json.loads((root / f"{name}.json").read_text())
        return cls(root, Path(about["base"]), Path(about["wheels"]), env=about["env"], user=about["user"])
