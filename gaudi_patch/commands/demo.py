"""`demo`: the whole story in a throwaway environment, with a real LMCache from PyPI."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from gaudi_patch.errors import Exit, GaudiPatchError
from gaudi_patch.locate import Installation, Target, locate
from gaudi_patch.manifest import Manifest, load
from gaudi_patch.report import Result, Table, Text, narrate


@dataclass
class _Story:
    """The steps so far: name, expected and actual exit code, seconds."""

    rows: list[tuple[str, str, str, str]] = field(default_factory=list)
    failed: bool = False

    def step(self, name: str, wanted: Exit, run: Callable[[], Result]) -> Result:
        started = time.perf_counter()
        try:
            result = run()
        except GaudiPatchError as error:
            result = Result(name, error.exit, errors=[error])
        seconds = time.perf_counter() - started
        good = result.exit is wanted
        self.failed |= not good
        what = "; ".join(str(error) for error in result.errors) or result.data.get("state") or ""
        self.rows.append((name, "ok" if good else "failed", f"exit {int(result.exit)}: {what}", f"{seconds:.3f} s"))
        narrate([f"  {name}: exit {int(result.exit)} in {seconds:.3f} s"])
        return result


def demo(version: str, keep: Path | None) -> Result:
    """Install LMCache into a new environment and run check, apply, check, rollback, check on it.

    Exit 0 when every step ended as it must and the tree is, to the byte, what the installer left;
    the environment is removed unless ``keep`` names a folder for it.
    """
    manifest = load()
    version = version or _newest(manifest)
    story = _Story()
    with _folder(keep) as folder:
        with _progress(f"making an environment in {folder}"):
            python = _environment(folder)
        with _progress(f"installing lmcache {version} from PyPI, without dependencies"):
            _install(python, f"{manifest.package}=={version}")
        installation = locate(Target(python=python), manifest.package)
        before = _tree(installation.root)
        _verbs(story, manifest, installation)
        identical = _tree(installation.root) == before
        story.failed |= not identical
        story.rows.append(
            ("compare", "ok" if identical else "failed", "every byte as installed" if identical else "bytes differ", "")
        )
    return _report(story, version, folder if keep else None)


def _verbs(story: _Story, manifest: Manifest, installation: Installation) -> None:
    from gaudi_patch.commands import apply, check, rollback

    story.step("check", Exit.PENDING, lambda: check.check(manifest, installation))
    story.step("apply", Exit.OK, lambda: apply.apply(manifest, installation, apply.Options()))
    story.step("check", Exit.OK, lambda: check.check(manifest, installation))
    story.step("apply again", Exit.OK, lambda: apply.apply(manifest, installation, apply.Options()))
    story.step("rollback", Exit.OK, lambda: rollback.rollback(manifest, installation, rollback.Options()))
    story.step("check", Exit.PENDING, lambda: check.check(manifest, installation))


def _report(story: _Story, version: str, kept: Path | None) -> Result:
    steps = [
        {"step": name, "status": status, "result": what, "seconds": took} for name, status, what, took in story.rows
    ]
    result = Result("demo", data={"version": version, "steps": steps, "kept": str(kept) if kept else None})
    result.blocks.append(Table(("step", "status", "result", "time"), story.rows, f"LMCache {version}", state_column=1))
    if story.failed:
        result.exit = Exit.REFUSED
        fault = GaudiPatchError(
            Exit.REFUSED, "demo-failed", "a step of the demo did not end as it must", "see the table"
        )
        result.errors.append(fault)
        return result
    result.blocks.append(
        Text(f"demo succeeded: LMCache {version} was patched, verified, and rolled back to the byte", "good")
    )
    result.blocks.append(Text(f"the environment is in {kept}" if kept else "nothing was left behind"))
    return result


def _newest(manifest: Manifest) -> str:
    from packaging.version import Version

    return max((series.versions.removeprefix("==") for series in manifest.series), key=Version)


@contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    with ExitStack() as stack:
        if keep is None:
            yield Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gaudi-patch-demo-"))).resolve()
            return
        if keep.exists() and any(keep.iterdir()):
            raise GaudiPatchError(
                Exit.USAGE, "not-empty", "is not empty; nothing was changed", "name a new folder", str(keep)
            )
        keep.mkdir(parents=True, exist_ok=True)
        yield keep.resolve()


def _environment(folder: Path) -> Path:
    _run(
        [sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")],
        "make a virtual environment",
        "apt install python3-venv",
    )
    return folder / "venv" / "bin" / "python"


def _install(python: Path, requirement: str) -> None:
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", requirement]
    _run(command, f"install {requirement}", "look at the network and at pip's configuration (PIP_INDEX_URL, PIP_CERT)")


def _run(command: list[str], what: str, hint: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()[-8:]
        raise GaudiPatchError(
            Exit.ENVIRONMENT, "demo-set-up", f"could not {what} (exit {done.returncode})", hint, details=lines
        )


@contextmanager
def _progress(text: str) -> Iterator[None]:
    started = time.perf_counter()
    narrate([f"{text} ..."])
    yield
    narrate([f"  done in {time.perf_counter() - started:.1f} s"])


def _tree(root: Path) -> dict[str, str]:
    """Every file below ``root`` with its hash."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file()
    }
