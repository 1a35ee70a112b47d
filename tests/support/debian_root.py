"""A true root file system as a Gaudi image: Debian's packages and Python, PyTorch, Intel's plugin, no card.

Made once from Debian's archive by ``mmdebstrap`` and kept in the cache as layers: the system (0.25 GB), PyTorch (hard
links to the tests' own environment), a compiler. A stage of a Dockerfile is an overlay over them, entered by
``unshare`` and ``chroot``: users, paths and permissions are as in a container. It needs root; if the tests run without
root, tests/support/container.py replaces it.

A Python that is in no Debian release is a copy of the local one. As in Intel's Dockerfiles (HabanaAI/Setup_and_Install,
dockerfiles/base and dockerfiles/pytorch): pip outside Debian's packages and no EXTERNALLY-MANAGED, no ensurepip,
PYTHONPATH with a directory that only root can read, tcmalloc preloaded. Not available here: Intel's software itself,
UBI, Ubuntu.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.support import environments, gaudi_image
from tests.support.environments import EnvironmentUnavailableError
from tests.support.installers import uv_binary

TIMEOUT = 1800
#: The Debian release that has each Python, so that PyTorch's environment fits it. Another Python is below /usr/local,
#: as in images that compile their own.
_SUITES = {"3.11": "bookworm", "3.13": "trixie"}
_OTHERWISE = "bookworm"
_PACKAGES = "python3,ca-certificates,libtcmalloc-minimal4"
#: Certificates that this machine trusts, including its proxy's; pip and uv bring their own, and get this path.
_CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
_ENTER = """
set -e
mount -t overlay overlay -o "lowerdir=$1,upperdir=$2,workdir=$3" "$4"
mount -t proc proc "$4/proc"
mount --rbind /dev "$4/dev"
mount -t tmpfs tmpfs "$4/dev/shm"
if [ "$5" = online ]; then
    mount --bind /etc/resolv.conf "$4/etc/resolv.conf"
    if [ -f "$6" ]; then mount --bind "$6" "$4$6"; fi
else
    ip link set lo up
fi
cd "$4"
shift 6
exec chroot . "$@"
"""


@dataclass(frozen=True)
class Image:
    """Layers, lowest first, and the image's configuration."""

    layers: tuple[Path, ...]
    env: Mapping[str, str]
    user: str = "root"
    workdir: str = "/"


@dataclass(frozen=True)
class State:
    """The state after a stage."""

    image: Image
    upper: Path


@dataclass
class Root:
    """A stand-in for a container engine; ``images`` returns the stand-in for an image's name."""

    scratch: Path
    images: Callable[[str], Image]
    context: Path
    online: bool = False
    layered: bool = True
    arguments: dict[str, str] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)
    user: str = "root"
    started: list[str] = field(default_factory=list)

    def here(self, text: str) -> str:
        """Return ``text`` unchanged: the image's paths are real here."""
        return text

    def start(self, image: str) -> None:
        self.started.append(image)
        self._enter(self.images(image))

    def _enter(self, image: Image) -> None:
        self.image, self.env, self.user = image, dict(image.env), image.user
        self.upper = self.scratch / f"stage-{len(list(self.scratch.glob('stage-*')))}"
        for name in ("upper", "work", "root"):
            (self.upper / name).mkdir(parents=True)
        self.upper.chmod(0o755)

    def state(self) -> State:
        layers = (*self.image.layers, self.upper / "upper")
        return State(replace(self.image, layers=layers, env=dict(self.env), user=self.user), self.upper / "upper")

    def resume(self, state: State) -> None:
        self._enter(state.image)

    def place(self, path: str) -> Path:
        """Return the path of a file in the current stage, for reading or, as in COPY, for writing by root."""
        return self.upper / "upper" / path.lstrip("/")

    def find(self, path: str) -> Path:
        """Return a file of the stage, from whichever layer has it."""
        layers = [self.upper / "upper", *reversed(self.image.layers)]
        return next(file for layer in layers if (file := layer / path.lstrip("/")).exists())

    def _copy(self, source: Path, target: str) -> None:
        """Copy as COPY does: root owns everything, and missing directories are created."""
        place = self.place(target)
        if not source.is_dir() and target.endswith("/"):
            place = place / source.name
        directory = place if source.is_dir() else place.parent
        inside = directory.relative_to(self.upper / "upper")
        for path in reversed([inside, *inside.parents]):
            made = self.upper / "upper" / path
            if not made.exists():  # an overlay shows the mode of the topmost layer
                lower = [layer / path for layer in reversed(self.image.layers) if (layer / path).exists()]
                made.mkdir()
                made.chmod(lower[0].stat().st_mode & 0o7777 if lower else 0o755)
        # Without attributes, in which an overlay records the origin of a layer's file.
        what = f"{source}/." if source.is_dir() else str(source)
        subprocess.run(["cp", "-r", "--preserve=mode", what, str(place)], check=True)

    def copy_from_context(self, pattern: str, target: str) -> None:
        (source,) = self.context.glob(pattern.rstrip("/"))
        self._copy(source, target)

    def copy_from_stage(self, state: State, source: str, target: str) -> None:
        self._copy(state.upper / source.strip("/"), target)

    def copy(self, image: str, source: str, target: str) -> None:
        """COPY --from an image: only uv's image is known, and its uv is the tests' own."""
        assert image.startswith("ghcr.io/astral-sh/uv:") and source == "/uv", (image, source)
        self._copy(Path(uv_binary()), target)

    def run(
        self,
        command: Sequence[str],
        more: Mapping[str, str] | None = None,
        *,
        user: str | None = None,
        workdir: str | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as the image's user. As in Docker, a uid without a group has group 0."""
        uid, _, gid = (user or self.user).partition(":")
        trusted = dict.fromkeys(("PIP_CERT", "SSL_CERT_FILE"), _CERTIFICATES) if self.online else {}
        variables = {"HOME": "/root" if uid in ("root", "0") else "/", **trusted, **self.env, **(more or {})}
        become = [] if uid in ("root", "0") else ["setpriv", f"--reuid={uid}", f"--regid={gid or 0}", "--clear-groups"]
        # The engine changes the directory before it changes the user.
        inside = ["/bin/sh", "-c", 'cd "$0" && exec "$@"', workdir or self.image.workdir, *become, "env", "-i"]
        lower = ":".join(map(str, reversed(self.image.layers)))
        stage = [str(self.upper / name) for name in ("upper", "work", "root")]
        network = ["online"] if self.online else ["offline"]
        unshare = ["unshare", "--mount", "--propagation=private", "--pid", "--fork", "--kill-child"]
        unshare += [] if self.online else ["--net"]
        given = [f"{name}={value}" for name, value in variables.items()]
        return subprocess.run(
            [*unshare, "sh", "-c", _ENTER, "enter", lower, *stage, *network, _CERTIFICATES, *inside, *given, *command],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=TIMEOUT,
            check=False,
        )


def possible() -> bool:
    """Return whether a root can be entered here, not whether it can be made."""
    if os.geteuid() != 0 or not all(map(shutil.which, ("unshare", "chroot", "setpriv", "ip"))):
        return False
    tried = ["unshare", "--mount", "--pid", "--net", "--fork", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return subprocess.run(tried, capture_output=True, check=False).returncode == 0


def gaudi(directory: Path, *, form: str = "namespace", broken: str = "", compiler: bool = True) -> Image:
    """Return a Gaudi image without LMCache; files specific to this image go into ``directory``."""
    python = environments.torch_python()
    about = environments._interpreter(python)
    own = directory / "plugin"
    packages = own / _packages(about.version)
    packages.mkdir(parents=True)
    gaudi_image.install_plugin(packages, form, broken)
    gaudi_image.give_torch_a_vendor_version(packages)
    layers = [system(), with_torch(), *([with_compiler()] if compiler else []), own]
    (library,) = (layers[0] / "usr/lib").glob("*/libtcmalloc_minimal.so.4")
    env = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG": "C.UTF-8",
        "PYTHONPATH": "/root:/usr/lib/habanalabs/",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_NO_CACHE_DIR": "on",
        "LD_PRELOAD": f"/{library.relative_to(layers[0])}",
    }
    return Image(tuple(layers), env)


def _suite() -> str:
    return _SUITES.get(environments._interpreter(environments.torch_python()).version, _OTHERWISE)


def _packages(version: str) -> str:
    """Return the package directory of a root: Debian's dist-packages, for a Python from Debian."""
    return f"usr/local/lib/python{version}/{'dist' if version in _SUITES else 'site'}-packages"


def system() -> Path:
    """Return the layer of Debian's own packages."""
    suite = _suite()
    layer = environments.cache_dir() / "roots" / f"{suite}-{environments._digest(_PACKAGES.encode())}"
    with environments._made_once(layer) as missing:
        if missing:
            if shutil.which("mmdebstrap") is None:
                raise EnvironmentUnavailableError("no mmdebstrap: apt-get install mmdebstrap")
            command = ["mmdebstrap", "--quiet", "--variant=apt", f"--include={_PACKAGES}", suite, str(layer)]
            environments._call(command, f"cannot make a root of Debian {suite}", TIMEOUT)
            for file in layer.glob("usr/lib/python3*/EXTERNALLY-MANAGED"):
                file.unlink()
    return layer


def with_torch() -> Path:
    """Return the layer with PyTorch's environment, and pip as get-pip.py installs it."""
    python = environments.torch_python()
    about = environments._interpreter(python)
    layer = python.parent.parent.with_name(python.parent.parent.name + "-root")
    packages = layer / _packages(about.version)
    with environments._made_once(layer) as missing:
        if missing:
            if about.version not in _SUITES:
                _copy_python(python, layer / "usr")
            for path in dict.fromkeys((about.purelib, about.platlib)):
                skip = shutil.ignore_patterns("pip", "pip-*", "_virtualenv*", "distutils-precedence.pth")
                shutil.copytree(path, packages, copy_function=os.link, symlinks=True, ignore=skip, dirs_exist_ok=True)
            find = "import ensurepip, pathlib; print(pathlib.Path(ensurepip.__file__).parent / '_bundled')"
            bundled = Path(environments._call([sys.executable, "-c", find], "no ensurepip").strip())
            (wheel,) = bundled.glob("pip-*.whl")
            zipfile.ZipFile(wheel).extractall(packages)
            (layer / "usr/lib/habanalabs").mkdir(parents=True)
    return layer


def _copy_python(python: Path, usr: Path) -> None:
    """Copy the Python that an environment was made from below ``usr``/local, without its packages."""
    ask = "import sys; print(sys.base_prefix)"
    prefix = Path(environments._call([str(python), "-I", "-c", ask], f"cannot run {python}").strip())
    name = f"python{environments._interpreter(python).version}"
    skip = shutil.ignore_patterns("site-packages", "__pycache__", "test", "config-*", "ensurepip")
    shutil.copytree(prefix / "lib" / name, usr / "local" / "lib" / name, ignore=skip)
    # The loader searches here without a cache of its own.
    libraries = usr / "lib" / f"{os.uname().machine}-linux-gnu"
    libraries.mkdir(parents=True)
    for file in prefix.glob("lib/libpython*.so.*"):
        shutil.copy2(file, libraries)
    (usr / "local" / "bin").mkdir()
    shutil.copy2(prefix / "bin" / name, usr / "local" / "bin")
    for link in ("python3", "python"):
        (usr / "local" / "bin" / link).symlink_to(name)


def with_compiler() -> Path:
    """Return the layer that ``apt-get install g++`` adds."""
    base = system()
    layer = base.with_name(base.name + "-g++")
    with environments._made_once(layer) as missing:
        if missing:
            scratch = layer.with_name(layer.name + "-making")
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir()
            path = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
            machine = Root(scratch, lambda name: Image((base,), path), scratch, online=True)
            machine.start("debian")
            install = "apt-get update && apt-get install -y --no-install-recommends g++ && apt-get clean"
            done = machine.run(["/bin/sh", "-c", install], {"DEBIAN_FRONTEND": "noninteractive"})
            if done.returncode:
                raise EnvironmentUnavailableError(f"cannot install g++ in a root of Debian: {done.stderr[-2000:]}")
            (machine.upper / "upper").rename(layer)
            shutil.rmtree(scratch)
    return layer
