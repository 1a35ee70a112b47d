"""Run the emulated HPU on PyTorch as an index gives it, one version after the other, and print the table.

    python -m tests.scripts.torch_builds 2.7.1:0.4.2 2.9.1 2.14.0
    python -m tests.scripts.torch_builds --headers 2.8.0 2.9.0

Each version is installed into an environment of its own (5 to 8 GB and two minutes for a CUDA build) with what LMCache
imports and LMCache itself (0.5.6, or the release after the colon); then the conformance cases run in lazy and in eager
mode, and ``apply`` with the smoke levels imports, kernels and engine in both. The environment is removed before the
next one is made. ``--keep`` leaves the last one. ``--headers`` only compiles the device against the headers in each
version's wheel, which is downloaded, not installed, and removed. Exit 1 when anything failed.

Where pip's own configuration holds PyTorch below a version, ``PIP_CONSTRAINT=/dev/null`` before the command lifts that
for it alone.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.support import environments
from tests.support.cli import command, environment

REPOSITORY = Path(__file__).resolve().parents[2]
LMCACHE = "0.5.6"
LEVELS = ("imports", "kernels", "engine")
MODES = ("lazy", "eager")
_GIGABYTE = 1024**3


@dataclass
class Row:
    """The results of one version."""

    version: str
    installed: str = ""
    gigabytes: float = 0.0
    conformance: dict[str, str] = field(default_factory=dict)
    levels: dict[str, str] = field(default_factory=dict)
    compiles: str = ""
    problem: str = ""

    @property
    def passed(self) -> bool:
        wanted = len(MODES), len(LEVELS) * len(MODES)
        done = [*self.conformance.values(), *self.levels.values()]
        return (len(self.conformance), len(self.levels)) == wanted and all(one.startswith("passed") for one in done)


def install(version: str, prefix: Path, lmcache: str) -> Path:
    """Create the environment and return its interpreter."""
    python = prefix / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", str(prefix)], check=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--no-cache-dir"]
    subprocess.run([*pip, f"torch=={version}"], check=True)
    lines = environments.REQUIREMENTS.read_text(encoding="utf-8").splitlines()
    rest = prefix / "requirements.txt"
    rest.write_text("\n".join(line for line in lines if not line.startswith("torch==")), encoding="utf-8")
    subprocess.run([*pip, "--no-deps", "--requirement", str(rest)], check=True)
    subprocess.run([*pip, "--no-deps", f"lmcache=={lmcache}"], check=True)
    return python


def conformance(python: Path, mode: str) -> str:
    """Run every case in one mode; return the result as text."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        script = REPOSITORY / "tests" / "emulator" / "scripts" / "run_cases.py"
        done = subprocess.run(
            [str(python), "-B", str(script), str(report), mode],
            env=environments.clean_environment() | {"PYTHONPATH": str(REPOSITORY)},
            capture_output=True,
            text=True,
            timeout=1800,
            check=False,
        )
        if done.returncode or not report.exists():
            lines = done.stderr.strip().splitlines()
            return f"died: {lines[-1][:200] if lines else done.returncode}"
        outcome: dict[str, str] = json.loads(report.read_text())["outcome"]
    failed = sorted(name for name, problem in outcome.items() if problem)
    for name in failed:
        print(f"--- {mode} {name}\n{outcome[name]}", file=sys.stderr)
    return f"failed: {', '.join(failed)}" if failed else f"passed, {len(outcome)} cases"


def smoke(python: Path) -> dict[str, str]:
    """Apply the series and run the levels; return the result of each, or of the whole."""
    wanted = ",".join(LEVELS)
    arguments = ("apply", "--python", python, "--smoke", wanted, "--require", wanted, "--json")
    done = subprocess.run(
        command(*arguments), env=environment(), capture_output=True, text=True, timeout=7200, check=False
    )
    document = json.loads(done.stdout)
    results = document["data"].get("smoke") or []
    if not results:
        return {"apply": f"failed with {done.returncode}: {document['errors']}"}
    return {
        f"{one['level']} {one['rules']}": f"{one['status']}, {one['checks']} checks"
        if one["status"] == "passed"
        else f"{one['status']}: {one['reason'][:300]}"
        for one in results
    }


def run(version: str, directory: Path, lmcache: str, *, keep: bool, need: float) -> Row:
    """Install a version, run everything on it, remove it."""
    row = Row(version)
    free = shutil.disk_usage(directory).free / _GIGABYTE
    if free < need:
        row.problem = f"{free:.0f} GB free in {directory}, {need:.0f} are needed"
        return row
    prefix = Path(tempfile.mkdtemp(prefix=f"torch-{version}-", dir=directory))
    try:
        began = time.monotonic()
        python = install(version, prefix, lmcache)
        print(f"{version}: installed in {time.monotonic() - began:.0f} s", file=sys.stderr)
        row.gigabytes = sum(file.lstat().st_size for file in prefix.rglob("*") if file.is_file()) / _GIGABYTE
        program = "import torch; print(torch.__version__)"
        row.installed = subprocess.check_output([str(python), "-c", program], text=True).strip()
        for mode in MODES:
            row.conformance[mode] = conformance(python, mode)
            print(f"{version}: conformance ({mode}) {row.conformance[mode]}", file=sys.stderr)
        row.levels = smoke(python)
        for name, result in row.levels.items():
            print(f"{version}: {name} {result}", file=sys.stderr)
    except (subprocess.SubprocessError, OSError, ValueError) as error:
        row.problem = str(error)[:500]
    finally:
        if not keep:
            shutil.rmtree(prefix, ignore_errors=True)
    return row


def headers(version: str, directory: Path) -> Row:
    """Compile the device against the headers in a version's wheel."""
    row = Row(version)
    with tempfile.TemporaryDirectory(prefix=f"torch-{version}-", dir=directory) as scratch:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-cache-dir", "--no-deps", "--dest", scratch]
        try:
            subprocess.run([*pip, "--only-binary", ":all:", f"torch=={version}"], check=True)
            (wheel,) = Path(scratch).glob("torch-*.whl")
        except (subprocess.SubprocessError, OSError, ValueError) as error:
            row.problem = str(error)[:500]
            return row
        row.gigabytes = wheel.stat().st_size / _GIGABYTE
        row.installed = wheel.name.removesuffix(".whl")
        began = time.monotonic()
        device = Path(scratch) / "device.so"
        arguments = ("emulator", "build", "--torch", wheel, "--out", device)
        done = subprocess.run(
            command(*arguments), env=environment(), capture_output=True, text=True, timeout=1200, check=False
        )
        lines = done.stderr.strip().splitlines()
        if done.returncode or not device.is_file():
            row.compiles = f"failed: {lines[-1][:300] if lines else done.returncode}"
        else:
            row.compiles = f"passed, {time.monotonic() - began:.0f} s"
    print(f"{version}: compiles: {row.compiles}", file=sys.stderr)
    return row


def table(rows: list[Row]) -> str:
    """Return the table for the emulator's README."""
    lines = ["| PyTorch | installed | conformance | imports, kernels, engine |", "|---|---|---|---|"]
    for row in rows:
        first = row.problem or "; ".join(f"{mode}: {one}" for mode, one in row.conformance.items())
        passed = sum(one.startswith("passed") for one in row.levels.values())
        bad = [f"; {name} {one}" for name, one in row.levels.items() if not one.startswith("passed")]
        count = f"{passed} of {len(LEVELS) * len(MODES)}{bad[0] if bad else ''}" if row.levels else ""
        lines.append(f"| {row.installed or row.version} | {row.gigabytes:.1f} GB | {first} | {count} |")
    return "\n".join(lines)


def headers_table(rows: list[Row]) -> str:
    """Return the table of ``--headers``."""
    lines = ["| PyTorch | wheel | compiles |", "|---|---|---|"]
    lines += [
        f"| {row.installed or row.version} | {row.gigabytes:.1f} GB | {row.compiles or row.problem} |" for row in rows
    ]
    return "\n".join(lines)


def main() -> int:
    """Run all versions; the table goes to stdout, the progress to stderr."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("versions", nargs="+", metavar="VERSION[:LMCACHE]")
    parser.add_argument("--headers", action="store_true", help="only compile against the headers in each wheel")
    parser.add_argument("--directory", type=Path, default=Path(tempfile.gettempdir()), help="where the room is")
    parser.add_argument("--need", type=float, default=15.0, metavar="GB", help="free space to ask for (15)")
    parser.add_argument("--keep", action="store_true", help="leave the last environment")
    options = parser.parse_args()
    wanted = [text.partition(":") for text in options.versions]
    if options.headers:
        rows = [headers(version, options.directory) for version, _, _ in wanted]
        print(headers_table(rows))
        return 0 if all(row.compiles.startswith("passed") for row in rows) else 1
    last = wanted[-1]
    rows = [
        run(one[0], options.directory, one[2] or LMCACHE, keep=options.keep and one is last, need=options.need)
        for one in wanted
    ]
    print(table(rows))
    return 0 if all(row.passed for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
