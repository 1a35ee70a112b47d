"""Summarize reports of `check --json`: one row per host, and the worst exit code.

A report comes from another host and is untrusted. An invalid report marks its host as unknown, never as healthy.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gaudi_patch.errors import Exit, GaudiPatchError
from gaudi_patch.output import schema
from gaudi_patch.reading import UnsuitableFileError, parse_json, read_bytes

LIMIT = 16 * 1024 * 1024
#: Worst first: manual repair, then faults that a run can fix, then unknown states.
WORST_FIRST = (
    Exit.HUMAN,
    Exit.BUG,
    Exit.SMOKE,
    Exit.REFUSED,
    Exit.ENVIRONMENT,
    Exit.NOT_FOUND,
    Exit.USAGE,
    Exit.TERMINATED,
    Exit.INTERRUPTED,
    Exit.PENDING,
    Exit.OK,
)


class Host(NamedTuple):
    """One host: the exit code of its `check`, its state, version and series, and its problem ("" for none).

    ``state`` is None if the report names none.
    """

    name: str
    file: Path
    exit: Exit
    state: str | None
    version: str
    series: str
    problem: str


class Fleet(NamedTuple):
    """All hosts, in the order of their names."""

    hosts: tuple[Host, ...]

    @property
    def worst(self) -> Exit:
        """Return the worst exit code of all hosts."""
        return min((host.exit for host in self.hosts), key=WORST_FIRST.index)

    @property
    def counts(self) -> dict[str, int]:
        """Return the number of hosts per exit code."""
        exits = Counter(str(int(host.exit)) for host in self.hosts)
        return {str(int(code)): exits[str(int(code))] for code in WORST_FIRST if str(int(code)) in exits}

    @property
    def kinds(self) -> list[str]:
        """Return the distinct pairs of version and series; a fleet that shares a cache should have only one."""
        return sorted({f"{host.version}, series {host.series or 'none'}" for host in self.hosts if host.version})

    @property
    def fault(self) -> GaudiPatchError | None:
        """Return the fleet's fault; None if every host is patched or pending."""
        if self.worst in (Exit.OK, Exit.PENDING):
            return None
        bad = [host for host in self.hosts if host.exit not in (Exit.OK, Exit.PENDING)]
        return GaudiPatchError(
            self.worst,
            "fleet",
            f"{len(bad)} of {len(self.hosts)} hosts are not in the required state",
            "each host's report says how to fix it",
            details=[f"{host.name}: {host.problem}" for host in bad],
        )


def read(files: Sequence[Path]) -> Fleet:
    """Read the reports; a host has the name of its file, without the suffix.

    Raises ``usage`` if two files are for the same host.
    """
    from jsonschema import Draft202012Validator

    validator = Draft202012Validator(json.loads(schema.text()))
    hosts = sorted((_host(file, validator) for file in files), key=lambda host: host.name)
    double = [name for name, count in Counter(host.name for host in hosts).items() if count > 1]
    if double:
        what = f"two reports are for the host {double[0]}"
        raise GaudiPatchError(Exit.USAGE, "usage", what, "name each file after its host: HOST.json")
    return Fleet(tuple(hosts))


def _host(file: Path, validator: Any) -> Host:  # noqa: ANN401 - jsonschema has no annotations
    name = file.name.removesuffix(".json")
    try:
        document = parse_json(read_bytes(file, LIMIT))
    except (OSError, UnsuitableFileError) as error:
        return _unknown(name, file, f"no report: {error.strerror or error}")
    except ValueError as error:
        return _unknown(name, file, f"no report: not valid JSON: {error}")
    fault = next(validator.iter_errors(document), None)
    if fault is not None or not isinstance(document, dict):
        return _unknown(name, file, "no report: not the output of `check --json`")
    if document["command"] != "check":
        return _unknown(name, file, f"a report of {document['command']}, not of check")
    data, code = document["data"], Exit(document["exit_code"])
    if data.get("installed") is False:  # --if-installed, and LMCache is missing
        return Host(name, file, code, None, "", "", "")
    built = data.get("built") or {}
    series = data.get("applied_series") or built.get("series") or data.get("series") or ""
    return Host(
        name, file, code, data.get("state"), data.get("version", ""), series, _problem(document["errors"], code)
    )


def _problem(errors: Iterable[Any], code: Exit) -> str:
    if code is Exit.PENDING:
        return "pristine: the series would apply"
    return "; ".join(f"{error['code']}: {error['message']}" for error in errors)


def _unknown(name: str, file: Path, problem: str) -> Host:
    return Host(name, file, Exit.USAGE, None, "", "", problem)
