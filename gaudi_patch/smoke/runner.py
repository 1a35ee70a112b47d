"""Run smoke levels in a target environment, each in its own process."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from gaudi_patch.smoke import emulated, outcome, target
from gaudi_patch.smoke.counted import Failure
from gaudi_patch.smoke.levels import DEVICES, EMULATOR, EMULATOR_PACKAGES, RULES, Level, select
from gaudi_patch.smoke.outcome import LevelResult
from gaudi_patch.target import process

#: The start of a probe's line that names a case (probes/_probe.py).
CASE = b"case: "

__all__ = ["LevelResult", "run", "run_probe"]


def run(
    python: Path,
    *,
    levels: Sequence[str],
    device: str = "auto",
    rules: Sequence[str] = ("lazy", "eager"),
    timeout: float = 300.0,
    environ: Mapping[str, str] | None = None,
    arguments: Mapping[str, Sequence[str]] | None = None,
    on_progress: Callable[[str], None] | None = None,
    on_begin: Callable[[str], None] | None = None,
    on_case: Callable[[str], None] | None = None,
) -> list[LevelResult]:
    """Run ``levels`` under the interpreter ``python``, in the table's order, in each mode of ``rules``.

    device: ``hpu`` for a real one, ``emulated``, or ``auto`` for a real one if there is one.
    timeout: seconds for one level in one mode, or for each of its sequential processes.
    environ: the base environment; by default this process's.
    arguments: extra arguments for the probes, by level name.
    on_progress: called with one line when a level ends, and without ``on_begin`` also when one starts.
    on_case: called with the name of each case within a level.

    A level that cannot run is skipped, with the reason. A level that crashes, hangs or gives an incomplete result
    fails. Nothing is written into the target.

    Raises ValueError for a level, device or mode that does not exist.
    """
    chosen = select(levels)
    if device not in DEVICES:
        raise ValueError(f"unknown device {device!r}; there are {', '.join(DEVICES)}")
    if not chosen or not rules:
        raise ValueError("no smoke level or no mode given: nothing would be checked")
    if unknown := sorted(set(rules) - set(RULES)):
        raise ValueError(f"unknown mode {', '.join(unknown)}; there are {', '.join(RULES)}")
    say = on_progress or (lambda line: None)
    begin = on_begin or say
    environ = os.environ if environ is None else environ
    results: list[LevelResult] = []
    with _folder("gaudi-patch-smoke-") as folder, _folder("gps-", "/tmp") as sockets:  # noqa: S108 - made private
        scratch = Path(folder)
        environ = {**environ, "GAUDI_PATCH_SOCKETS": sockets}
        needs = tuple(sorted({name for level in chosen for name in level.needs}))
        try:
            found = target.inspect(python, environ, scratch, needs)
        except target.TargetError as error:
            return [_not_run(level, rule, "failed", str(error)) for level in chosen for rule in _ordered(rules)]
        if fault := target.fault(found, device):
            return [_not_run(level, rule, "failed", fault) for level in chosen for rule in _ordered(rules)]
        used = target.choose_device(found, device)
        obstacles = {level.name: target.obstacle(found, level, used) for level in chosen}
        library: Path | None = None
        if used == "emulated" and not all(obstacles.values()):
            begin("the emulated HPU: looking for the compiled device; compiling it takes a minute")
            prepared = emulated.prepare(python, EMULATOR, environ, scratch)
            if prepared.fault:
                return [_not_run(level, rule, "failed", prepared.fault) for level in chosen for rule in _ordered(rules)]
            library = prepared.library
            obstacles = {name: reason or prepared.obstacle for name, reason in obstacles.items()}
        for level in chosen:
            for rule in _ordered(rules):
                label = f"{level.name} ({rule})"
                if reason := obstacles[level.name]:
                    result = _not_run(level, rule, "skipped", reason)
                else:
                    begin(f"{label}: running on {'an HPU' if used == 'hpu' else 'the emulated HPU'}")
                    extra = (arguments or {}).get(level.name, ())
                    case = _prefixed(f"{label}: ", on_case)
                    result = run_probe(python, level, rule, used, timeout, environ, scratch, extra, library, case)
                # Many levels are skipped for the same reason, which the final result gives once.
                ending = "skipped" if result.status == "skipped" else f"{result.status} in {result.seconds:.1f} s"
                say(f"{label}: {ending}" + (f": {result.reason}" if result.status == "passed" else ""))
                results.append(result)
    return results


def _folder(prefix: str, place: str | None = None) -> tempfile.TemporaryDirectory[str]:
    """Return a temporary directory; for sockets in /tmp, because a socket's path is limited to 107 characters."""
    return tempfile.TemporaryDirectory(prefix=prefix, dir=place, ignore_cleanup_errors=True)


def _prefixed(label: str, on_case: Callable[[str], None] | None) -> Callable[[str], None] | None:
    return None if on_case is None else lambda case: on_case(label + case)


def _ordered(rules: Sequence[str]) -> list[str]:
    return [name for name in RULES if name in rules]


def _not_run(level: Level, rules: str, status: outcome.Status, reason: str) -> LevelResult:
    failures = (Failure("interpreter", reason),) if status == "failed" else ()
    return LevelResult(level.name, status, reason, 0.0, "none", rules, failures=failures)


def run_probe(
    python: Path,
    level: Level,
    rules: str,
    device: str,
    timeout: float,
    environ: Mapping[str, str],
    parent: Path,
    arguments: Sequence[str] = (),
    library: Path | None = None,
    on_case: Callable[[str], None] | None = None,
) -> LevelResult:
    """Run one probe with its own ``arguments`` in a new directory below ``parent``, and judge the outcome.

    library: the compiled device, on the emulated HPU.
    on_case: called with each case that begins.
    """
    scratch = parent / f"{level.name}-{rules}"
    scratch.mkdir()
    answer = scratch / "result.json"
    command = [str(python)]
    if device == "emulated" and not level.brings_up_device:
        command.append(str(EMULATOR))
    command += [str(level.path), "--result", str(answer), "--rules", rules, "--device", device]
    if device == "emulated" and level.brings_up_device:
        command += ["--habana-packages", str(EMULATOR_PACKAGES)]
    if level.processes > 1:
        command += ["--case-seconds", str(timeout)]
        timeout *= level.processes
    command += arguments
    try:
        finished = process.run(
            command,
            timeout=timeout,
            environ=target.probe_environment(environ, rules=rules, scratch=scratch, library=library),
            cwd=scratch,
            on_output=_cases(on_case) if on_case is not None else None,
        )
    except OSError as error:
        return _not_run(level, rules, "failed", f"cannot run {python}: {error.strerror or error}")
    return outcome.judge(finished, answer, level=level.name, rules=rules, device=device, timeout=timeout)


def _cases(on_case: Callable[[str], None]) -> Callable[[bytes], object]:
    """Return a function that reads a probe's output as it arrives and reports each case."""
    rest = b""

    def read(data: bytes) -> None:
        nonlocal rest
        *lines, rest = (rest + data).split(b"\n")
        rest = rest[-4096:]
        for line in lines:
            if line.startswith(CASE):
                on_case(line[len(CASE) :].decode("utf-8", "replace").strip()[:200])

    return read
