"""Run inside.py with a target's interpreter, under the emulator, and read the result."""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from gaudi_patch.smoke.levels import EMULATOR
from tests.support import vllm_pairs
from tests.support.environments import Environment, clean_environment

_INSIDE = Path(__file__).resolve().with_name("inside.py")
#: Seconds per mix and way, on a busy host; and for the start.
_SECONDS_EACH, _SECONDS_TO_START = 10.0, 120.0


@dataclass(frozen=True)
class Counts:
    """The requests served. hits, hit_tokens: requests that loaded tokens beyond vLLM's own, and how many tokens."""

    mixes: int = 0
    requests: int = 0
    hits: int = 0
    hit_tokens: int = 0
    preempted: int = 0

    def __add__(self, other: Counts) -> Counts:
        """Return the sums."""
        return Counts(*(getattr(self, one.name) + getattr(other, one.name) for one in fields(self)))

    def __str__(self) -> str:
        """Return the counts as text."""
        return (
            f"{self.requests} requests, {self.hits} of them with hits of {self.hit_tokens:,} tokens, "
            f"{self.preempted} preempted"
        )


@dataclass(frozen=True)
class Outcome:
    """The result of some mixes. red: something differs from the expected result; said: what, and where."""

    red: bool
    said: str
    counts: Counts
    checks: int = 0

    def __str__(self) -> str:
        """Return the outcome as text."""
        return f"RED: {self.said}" if self.red else f"{self.counts}, {self.checks:,} comparisons"

    @property
    def again(self) -> str:
        """Return the options that repeat the first red mix; empty if none is named."""
        found = re.search(r"([\w-]+): mix (\d+): ", self.said)
        return f" --way {found[1]} --mixes {found[2]}" if found else ""


def with_server(environment: Environment) -> Environment:
    """Give a private environment the dependencies of LMCache's server, which the ways of multiprocess mode need.

    Raises EnvironmentUnavailableError if they cannot be had.
    """
    (environment.site_packages / "_server.pth").write_text(f"{vllm_pairs.imports()}\n")
    return environment


def serve(python: Path, ways: Sequence[str], mixes: Sequence[int], rules: str = "lazy") -> Outcome:
    """Serve ``mixes`` over each of ``ways``, in one process, with one engine for each way, in lazy or in eager mode."""
    with tempfile.TemporaryDirectory(prefix="gaudi-patch-mixes-") as folder:
        answer = Path(folder) / "result.json"
        command = [str(python), "-B", str(EMULATOR), f"--{rules}", str(_INSIDE), "--result", str(answer)]
        command += ["--rules", rules, "--device", "emulated", "--way", *ways, "--mix", *map(str, mixes)]
        environ = clean_environment() | {"LMCACHE_TRACK_USAGE": "false", "OMP_NUM_THREADS": "1"}
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                errors="replace",
                cwd=folder,
                env=environ,
                timeout=_SECONDS_TO_START + _SECONDS_EACH * len(mixes) * len(ways),
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            return Outcome(True, f"still running after {error.timeout:g} s", Counts())
        if not answer.exists():
            return Outcome(True, f"ended with {done.returncode} and no result: {done.stderr[-3000:]}", Counts())
        return read(json.loads(answer.read_bytes()), ways)


def read(result: Mapping[str, Any], ways: Sequence[str]) -> Outcome:
    """Return a probe's result; a way that is missing from it was not served, which is red."""
    total = Counts()
    for way in ways:
        counted = result["counters"].get(way, {})
        total += Counts(**{one.name: counted.get(one.name, 0) for one in fields(Counts)})
    missing = [way for way in ways if way not in result["counters"]]
    if result["status"] != "passed":
        return Outcome(True, str(result["reason"]), total, result["checks"])
    if missing:
        return Outcome(True, f"not served: {', '.join(missing)}", total, result["checks"])
    return Outcome(False, "", total, result["checks"])
