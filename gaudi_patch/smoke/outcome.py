"""The outcome of a level's run: the probe's own result, accepted only if everything is consistent."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from gaudi_patch.smoke.counted import BadResultError, Counters, Failure
from gaudi_patch.target.process import Finished

Status = Literal["passed", "failed", "skipped"]

# The probes' exit statuses (77 is what automake's test harness uses for a skip).
EXIT_STATUS: Mapping[str, int] = {"passed": 0, "failed": 1, "skipped": 77}
# The emulator's exit status and the start of its message if it is unavailable here, e.g. without a compiler.
EMULATOR_UNAVAILABLE = 4
EMULATOR_MESSAGE = "hpu emulator: "
RESULT_LIMIT = 4 * 1024 * 1024
SCHEMA = 1
_TIMED_OUT = "timed out"


@dataclass(frozen=True)
class LevelResult:
    """The result of one level in one mode.

    reason: why it failed or was skipped; if it passed, what was checked.
    device: ``hpu`` for a real one, ``emulated``, or ``none`` if nothing was run.
    rules: ``lazy`` (PT_HPU_LAZY_MODE=1) or ``eager``.
    checks: how many comparisons were made.
    failures: those that failed.
    counters: what the device counted.
    output_tail: the end of what the probe printed (at most 1 MB).
    exit_code: the probe's exit status (negative: a signal), None where nothing was run.
    """

    level: str
    status: Status
    reason: str
    seconds: float
    device: str
    rules: str
    checks: int = 0
    failures: tuple[Failure, ...] = ()
    counters: Counters = field(default_factory=Counters)
    output_tail: str = ""
    exit_code: int | None = None

    @property
    def timed_out(self) -> bool:
        """Return whether its time was up before it had ended."""
        return self.status == "failed" and self.reason.startswith(_TIMED_OUT)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form, which is published."""
        failures = [failure.to_json() for failure in self.failures]
        return {**asdict(self), "failures": failures, "counters": dict(self.counters.document)}


@dataclass(frozen=True)
class Reported:
    """A probe's validated result file."""

    status: Status
    reason: str
    checks: int
    failures: tuple[Failure, ...]
    counters: Counters


def read(path: Path, *, level: str, rules: str, device: str) -> Reported:
    """Return the result that a probe wrote to ``path``.

    Raises BadResultError unless it is complete, belongs to this level, mode and device, and its status follows from
    its checks: passed means at least one check and no failure.
    """
    try:
        with path.open("rb") as stream:
            raw = stream.read(RESULT_LIMIT + 1)
    except FileNotFoundError:
        raise BadResultError("it wrote no result") from None
    except OSError as error:
        raise BadResultError(f"its result cannot be read ({error})") from None
    if len(raw) > RESULT_LIMIT:
        raise BadResultError("its result is larger than 4 MB")
    try:
        data = json.loads(raw)
    except (ValueError, RecursionError):
        raise BadResultError("its result is not JSON") from None
    if not isinstance(data, dict) or data.get("schema") != SCHEMA or data.get("complete") is not True:
        raise BadResultError("its result is incomplete")
    for key, expected in (("level", level), ("rules", rules), ("device", device)):
        if data.get(key) != expected:
            raise BadResultError(f"its result is for {key} {data.get(key)!r}, not {expected!r}")
    status, reason, checks = data.get("status"), data.get("reason"), data.get("checks")
    documents = data.get("failures")
    if (
        status not in EXIT_STATUS
        or not isinstance(reason, str)
        or not reason
        or type(checks) is not int
        or not isinstance(documents, list)
    ):
        raise BadResultError("its result lacks a field or has one of the wrong type")
    failures, counters = tuple(map(Failure.read, documents)), Counters.read(data.get("counters"))
    if status == "passed" and (checks < 1 or failures):
        raise BadResultError(f"it says passed with {checks} checks and {len(failures)} failures")
    if status == "failed" and not failures:
        raise BadResultError("it says failed and names no failure")
    return Reported(cast(Status, status), reason, checks, failures, counters)


def judge(finished: Finished, path: Path, *, level: str, rules: str, device: str, timeout: float) -> LevelResult:
    """Derive one result from the probe's exit and its report, if any.

    Any disagreement between the two is a failure.
    """
    try:
        reported: Reported | None = read(path, level=level, rules=rules, device=device)
        why = ""
    except BadResultError as error:
        reported, why = None, str(error)
    status: Status = "failed"
    if finished.timed_out:
        done = "finished its checks but did not exit" if reported else "was still running"
        reason = f"{_TIMED_OUT}: the probe {done} after {timeout:g} s and was killed"
    elif reported is None and device == "emulated" and (obstacle := _emulator_obstacle(finished)):
        status, reason = "skipped", f"no emulated HPU here: {obstacle}"
    elif reported is None:
        detail = f": {finished.last_line}" if finished.last_line else ""
        reason = f"the probe ended with {finished.ending} and {why}{detail}"
    elif finished.returncode != EXIT_STATUS[reported.status]:
        reason = f"the probe reported {reported.status} but ended with {finished.ending}"
        if reported.status == "failed":
            reason += f"; {reported.reason}"
    else:
        status, reason = reported.status, reported.reason
    return LevelResult(
        level=level,
        status=status,
        reason=reason,
        seconds=finished.seconds,
        device=device,
        rules=rules,
        checks=reported.checks if reported else 0,
        failures=reported.failures if reported else (),
        counters=reported.counters if reported else Counters(),
        output_tail=finished.tail,
        exit_code=finished.returncode,
    )


def _emulator_obstacle(finished: Finished) -> str:
    if finished.returncode != EMULATOR_UNAVAILABLE or EMULATOR_MESSAGE not in finished.tail:
        return ""
    return emulator_message(finished.tail)


def emulator_message(output: str) -> str:
    """Return the emulator's last message, in one line."""
    return output.rpartition(EMULATOR_MESSAGE)[2].strip().partition("\n")[0][:800]
