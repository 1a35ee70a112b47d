"""Run cases and servers in separate processes, none of which outlives its case."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gaudi_patch.smoke.probes import _children, _environment, _probe
    from gaudi_patch.smoke.probes._vllm import children as vllm_children
else:  # run by path, beside this file
    import _children
    import _environment
    import _probe

    from _vllm import children as vllm_children

# Seconds for auxiliary processes (multiprocessing's resource tracker) to notice that their parent has ended.
_GRACE_SECONDS = 10.0


def environment(sockets: Path, habana_packages: str) -> dict[str, str]:
    """Return the environment of a case or server.

    sockets: the directory for vLLM's and LMCache's sockets; short, because a socket's path is limited to 107
        characters.
    habana_packages: the directory of the emulated habana_frameworks; empty on a real HPU.
    """
    environ = dict(os.environ)
    environ.update(
        PYTHONHASHSEED="0",  # vLLM and LMCache derive the keys of cached blocks from it
        VLLM_RPC_BASE_PATH=str(sockets),
    )
    if habana_packages:
        environ["PYTHONPATH"] = habana_packages
    return environ


@contextlib.contextmanager
def socket_folder() -> Iterator[Path]:
    """Yield a directory for sockets, and remove it with its content at the end.

    It is created in the directory given by smoke/runner.py, which is removed even if this process is killed. Its name
    is a number, because LMCache's socket names have up to 81 characters and whole paths at most 107.
    """
    place = os.environ.get("GAUDI_PATCH_SOCKETS")
    folder = _numbered(Path(place)) if place else Path(tempfile.mkdtemp(prefix="gps-", dir="/tmp"))  # noqa: S108, RUF100 - mkdtemp makes it private
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _numbered(place: Path) -> Path:
    """Create the directory with the first free number; ``place`` is private."""
    for number in itertools.count():
        folder = place / str(number)
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
            return folder
    raise AssertionError


def free_port() -> int:
    """Return a TCP port that is free at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run_case(
    probe: _probe.Probe, name: str, command: list[str], environ: dict[str, str], folder: Path, timeout: float
) -> bool:
    """Run a case's process and adopt its result; return whether it passed.

    A hanging case is killed with all its children and fails. A case that cannot be checked here is noted in the
    summary.
    """
    folder.mkdir(parents=True, exist_ok=True)
    answer, log = folder / "result.json", folder / "output.txt"
    command = [sys.executable, *command, "--result", str(answer), "--rules", probe.rules, "--device", probe.device]
    print(f"-- {name}", flush=True)
    newcomers = vllm_children.Newcomers()
    began = time.monotonic()
    with log.open("wb") as stream:
        process = _children.start(command, output=stream, environ=environ, folder=folder)
        try:
            status: int | None = process.wait(timeout)
        except subprocess.TimeoutExpired:
            status = None
        left = newcomers.end(0.0 if status is None else _GRACE_SECONDS)
        process.wait()
    seconds = round(time.monotonic() - began, 1)
    with probe.section(name):
        before = len(probe.failures)
        _take_over(probe, name, answer, status, _tail(log), timeout)
        probe.counters.setdefault(name, {})["seconds"] = seconds
        if status is not None:
            probe.check(not left, f"processes were left: {'; '.join(left)}")
        print(f"   {seconds} s", flush=True)
        return len(probe.failures) == before
    return False


def not_checked(probe: _probe.Probe, case: str, reason: str) -> None:
    """Report, to people and programs, that a case was not checked, and why."""
    probe.not_checked[case] = reason
    probe.summary.append(f"{case} not checked ({reason})")


def require_one(probe: _probe.Probe, cases: Sequence[str]) -> None:
    """Skip the level if none of ``cases`` could be checked: without any check it has not passed."""
    if cases and all(name in probe.not_checked for name in cases):
        raise _probe.Skip("; ".join(f"{name}: {probe.not_checked[name]}" for name in cases))


def _take_over(probe: _probe.Probe, name: str, answer: Path, status: int | None, tail: str, timeout: float) -> None:
    if status is None:
        print(tail, flush=True)
        finished = "finished but did not exit" if answer.exists() else "was still running"
        probe.fail(f"the case {finished} after {timeout:g} s and was killed; its last line: {_last_line(tail)}")
        return
    try:
        data = json.loads(answer.read_bytes())
    except (OSError, ValueError):
        print(tail, flush=True)
        probe.fail(f"the process ended with status {status} and gave no result; its last line: {_last_line(tail)}")
        return
    probe.checks += data["checks"]
    probe.counters[name] = data["counters"]
    if data["status"] == "skipped":
        not_checked(probe, name, data["reason"])
        return
    for failure in data["failures"]:
        probe.checks -= 1  # fail counts it again
        with probe.section(failure["check"].partition(" / ")[2] or failure["check"]):
            probe.fail(failure["message"])
    if data["status"] != "passed":
        print(tail, flush=True)
    elif status != 0:
        probe.fail(f"it reported {data['status']} but ended with status {status}")
    else:
        probe.summary += data["summary"]


@contextlib.contextmanager
def server(command: list[str], environ: dict[str, str], folder: Path, port: int, timeout: float) -> Iterator[int]:
    """Run a server during the block and yield its process's id; terminate it at the end, and kill it if needed.

    Raises RuntimeError if it exits, or does not listen on ``port`` after ``timeout`` seconds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "output.txt"
    newcomers = vllm_children.Newcomers()
    with log.open("wb") as stream:
        process = _children.start([sys.executable, *command], output=stream, environ=environ, folder=folder)
    try:
        _wait_for_port(process, port, timeout, log)
        yield process.pid
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        newcomers.end(_GRACE_SECONDS)


def _wait_for_port(process: subprocess.Popen[bytes], port: int, timeout: float, log: Path) -> None:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if process.poll() is not None:
            print(_tail(log), flush=True)
            if missing := re.search(r"ModuleNotFoundError: No module named '([\w.]+)'", _tail(log)):
                _refuse_or_skip(missing.group(1))
            raise RuntimeError(f"the server ended with status {process.returncode}: {_last_line(_tail(log))}")
        with socket.socket() as client:
            client.settimeout(1)
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise RuntimeError(f"the server does not listen after {timeout:g} s: {_last_line(_tail(log))}")


def _refuse_or_skip(module: str) -> None:
    top = module.partition(".")[0]
    if top == "lmcache" or top in _environment.CUDA_LIBRARIES:
        raise RuntimeError(f"LMCache's server needs {module}, which a Gaudi host does not have")
    raise _probe.Skip(f"LMCache's server needs {module}, which is not installed")


def _tail(log: Path) -> str:
    return log.read_bytes()[-20000:].decode("utf-8", "replace")


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][-300:] if lines else "none"
