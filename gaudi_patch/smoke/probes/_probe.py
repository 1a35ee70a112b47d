"""The common part of every probe: arguments, checks, result file, exit status.

A probe is run by path under the target interpreter, ``python PROBE --result FILE --rules RULES
--device DEVICE``; on the emulated HPU the emulator's directory comes before PROBE. It imports nothing from
gaudi_patch. Its result goes into FILE as one JSON object; its output is for people.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, TypeAlias

if TYPE_CHECKING:
    from gaudi_patch.inside import first_cause
    from gaudi_patch.smoke.probes import _environment
else:
    import _environment

    def inside(name):  # noqa: ANN001, ANN202 - the type checker sees the imports above
        """Load a module of inside/ by path: the interpreter that runs this file has no gaudi_patch."""
        file = Path(__file__).resolve().parents[2] / "inside" / f"{name}.py"
        spec = importlib.util.spec_from_file_location(f"_{name}", file)
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # dataclasses look their module up
        spec.loader.exec_module(module)
        return module

    first_cause = inside("first_cause")

# An object from torch or LMCache: the probes are type-checked without either.
Foreign: TypeAlias = Any
#: What LMCache calls a GB in its settings of sizes.
GIB = 1 << 30

# Of whatever a probe draws at random, so that a run can be repeated.
SEED = 20240229

EXIT = {"passed": 0, "failed": 1, "skipped": 77}
MAX_FAILURES = 25
_MAX_TEXT = 1500


class Skip(Exception):  # noqa: N818 - control flow, not an error
    """The level cannot be checked here; the message says why."""


class _Enough(Exception):  # noqa: N818 - control flow, not an error
    """So many checks have failed that more would add nothing."""


def load(name: str) -> Foreign:
    """Import a module of the target environment (untyped, since this file is checked without it)."""
    return importlib.import_module(name)


class Failure(NamedTuple):
    """One failed check: its name, what is wrong, and whatever else helps to find the fault."""

    check: str
    message: str
    detail: dict[str, object]

    def to_json(self) -> dict[str, object]:
        """Return the form in which it goes into the result."""
        return {"check": self.check, "message": self.message, **self.detail}


class Probe:
    """The checks of one level, and their results.

    rules: ``lazy`` or ``eager``. device: ``hpu`` or ``emulated``. scratch: an empty directory.
    counters: whatever the level measures, by name; it goes into the result as it is, and nothing here reads it.
    not_checked: why a case could not be checked, by its name.
    summary: what was checked, for the result of a level that passed.
    """

    def __init__(self, level: str, rules: str, device: str, scratch: Path) -> None:
        self.level, self.rules, self.device, self.scratch = level, rules, device, scratch
        self.checks = 0
        self.failures: list[Failure] = []
        self.counters: dict[str, Any] = {}
        self.not_checked: dict[str, str] = {}
        self.summary: list[str] = []
        self._section: list[str] = []

    @contextlib.contextmanager
    def section(self, name: str) -> Iterator[None]:
        """Name the checks in the block; an exception there becomes a failure of that name.

        Skip and a missing dependency of LMCache are passed on: they end the level.
        """
        self._section.append(name)
        if len(self._section) > 1:
            print(f"case: {' / '.join(self._section[1:])}", flush=True)  # for the progress display
        try:
            yield
        except (Skip, _Enough):
            raise
        except Exception as error:
            if dependency := _environment.missing_dependency(error):
                raise Skip(_environment.not_installed(dependency)) from error
            traceback.print_exc()
            self.fail(describe(error))
        finally:
            self._section.pop()

    def check(self, ok: bool, message: str | Callable[[], str], **detail: object) -> bool:
        """Count one comparison; record a failure with the message unless ``ok``."""
        self.checks += 1
        if not ok:
            self.checks -= 1
            self.fail(message if isinstance(message, str) else message(), **detail)
        return ok

    def note(self, text: str) -> None:
        """Add to the summary, once."""
        if text not in self.summary:
            self.summary.append(text)

    def fail(self, message: str, **detail: object) -> None:
        """Record a failed check. Raises to end the level after ``MAX_FAILURES``, or if one cause explains them all.
        Raises Skip if the first failure is due to a missing dependency that LMCache ignored.
        """
        cause = first_cause.swallowed() if not self.failures and _environment.installed("lmcache") else None
        if cause is not None:
            if dependency := _environment.missing_dependency(cause.error):
                raise Skip(_environment.not_installed(dependency))
            message = f"{cause.text} (seen as: {message})"
        self._record(message, detail)
        if cause is not None or len(self.failures) >= MAX_FAILURES:
            raise _Enough

    def end(self, message: str, **detail: object) -> NoReturn:
        """Record a failure that invalidates all other checks, and end the level."""
        self._record(message, detail)
        raise _Enough

    def _record(self, message: str, detail: dict[str, object]) -> None:
        self.checks += 1
        failure = Failure(" / ".join(self._section) or self.level, message[:_MAX_TEXT], detail)
        self.failures.append(failure)
        print(f"FAILED {failure.check}: {failure.message}", file=sys.stderr, flush=True)


def describe(error: BaseException) -> str:
    """Return an exception in one line: its type and message, and its origin in LMCache, else in the probe."""
    frames = traceback.extract_tb(error.__traceback__)
    inside = [frame for frame in frames if "/lmcache/" in frame.filename.replace("\\", "/")] or frames
    # PyTorch appends the C++ stack to some messages.
    message = str(error).partition("\nException raised from")[0]
    text = f"{type(error).__name__}: {message}"
    if not inside:
        return text
    name = inside[-1].filename.replace("\\", "/").rpartition("site-packages/")[2]
    return f"{text} ({name}:{inside[-1].lineno})"


def main(level: str, body: Callable[[Probe], None]) -> NoReturn:
    """Run a probe's body and write its result; exits 0 passed, 1 failed, 77 skipped."""
    parser = argparse.ArgumentParser(description=f"Smoke check, level {level}.")
    parser.add_argument("--result", type=Path, required=True)
    parser.add_argument("--rules", choices=("lazy", "eager"), required=True)
    parser.add_argument("--device", choices=("hpu", "emulated"), required=True)
    parser.add_argument("--habana-packages", type=Path, help="where an emulated habana_frameworks is")
    arguments, _ = parser.parse_known_args()
    if arguments.habana_packages:
        # First on the path, as an installed one would be found; the rest of the environment is unchanged.
        sys.path[:] = [str(arguments.habana_packages), *(p for p in sys.path if p != str(arguments.habana_packages))]
    probe = Probe(level, arguments.rules, arguments.device, arguments.result.parent)
    status, reason = _carry_out(probe, body)
    data = {
        "schema": 1,
        "complete": True,
        "level": level,
        "rules": arguments.rules,
        "device": arguments.device,
        "status": status,
        "reason": reason,
        "checks": probe.checks,
        "failures": [failure.to_json() for failure in probe.failures],
        "counters": {**probe.counters, **({"not_checked": probe.not_checked} if probe.not_checked else {})},
        "summary": probe.summary,
    }
    partial = arguments.result.with_suffix(".partial")
    partial.write_text(json.dumps(data), encoding="utf-8")
    partial.replace(arguments.result)
    if status == "failed":
        # A failure may leave threads that never end; waiting for them would be useless.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(EXIT[status])
    sys.exit(EXIT[status])


def confirm_habana(probe: Probe) -> None:
    """Check that this process's habana_frameworks, if any, is that of the device under check.

    Raises to end the level if not, because the checks then ran on something else.
    """
    module = sys.modules.get("habana_frameworks")
    if module is None:
        return
    emulated = bool(getattr(module, "IS_EMULATED", False))
    if emulated != (probe.device == "emulated"):
        place = [*getattr(module, "__path__", ()), "an unknown place"][0]
        probe.end(
            f"habana_frameworks is {'emulated' if emulated else 'real'} ({place}), and the check is for {probe.device}"
        )


def _carry_out(probe: Probe, body: Callable[[Probe], None]) -> tuple[str, str]:
    try:
        with probe.section(probe.level):
            body(probe)
        with probe.section(probe.level):
            confirm_habana(probe)
    except Skip as skip:
        # An earlier failure stays a failure, even if later checks could not run.
        if not probe.failures:
            return "skipped", str(skip)
    except _Enough:
        pass
    if not probe.failures and probe.checks == 0:
        probe.failures.append(Failure(probe.level, "nothing was checked", {}))
    if probe.failures:
        first = probe.failures[0]
        more = f" (and {len(probe.failures) - 1} more)" if len(probe.failures) > 1 else ""
        parts = [f"{first.check}: {first.message}{more}", _environment.advice()]
        return "failed", "; ".join(part for part in parts if part)
    return "passed", ", ".join([*probe.summary, f"{probe.checks} comparisons"])
