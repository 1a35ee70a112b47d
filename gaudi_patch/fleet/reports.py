"""Reports of `check --json` -> one row per host, and what is the worst of them.

A report comes from another host and is as untrusted as it is: one that is no report counts as a host that nothing is
known of, and never as one that is well.
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
#: The worst first. What is to be repaired by hand comes before what a run can mend, that before what is unknown.
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
    """One host: its exit code of `check`, what it has, and what is wrong, "" for nothing.

    ``state`` is None where the report names none.
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
        """Return the exit code of the host that fares worst."""
        return min((host.exit for host in self.hosts), key=WORST_FIRST.index)

    @property
    def counts(self) -> dict[str, int]:
        """Return how many hosts have which exit code."""
        exits = Counter(str(int(host.exit)) for host in self.hosts)
        return {str(int(code)): exits[str(int(code))] for code in WORST_FIRST if str(int(code)) in exits}

    @property
    def kinds(self) -> list[str]:
        """Return the different pairs of version and series; a fleet that shares a cache should have one."""
        return sorted({f"{host.version}, series {host.series or 'none'}" for host in self.hosts if host.version})

    @property
    def fault(self) -> GaudiPatchError | None:
        """Return what is wrong with the fleet; None where all hosts are patched, or merely wait for it."""
        if self.worst in (Exit.OK, Exit.PENDING):
            return None
        bad = [host for host in self.hosts if host.exit not in (Exit.OK, Exit.PENDING)]
        return GaudiPatchError(
            self.worst,
            "fleet",
            f"{len(bad)} of {len(self.hosts)} hosts are not as they must be",
            "each host's own report has what to do about it",
            details=[f"{host.name}: {host.problem}" for host in bad],
        )


def read(files: Sequence[Path]) -> Fleet:
    """Read the reports; a host is called as its file is, without the suffix.

    Raises ``usage`` where two files stand for one host.
    """
    from jsonschema import Draft202012Validator

    validator = Draft202012Validator(json.loads(schema.text()))
    hosts = sorted((_host(file, validator) for file in files), key=lambda host: host.name)
    double = [name for name, count in Counter(host.name for host in hosts).items() if count > 1]
    if double:
        what = f"two reports are of the host {double[0]}"
        raise GaudiPatchError(Exit.USAGE, "usage", what, "name each file by its host: HOST.json")
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
        return _unknown(name, file, "no report: not what `check --json` prints")
    if document["command"] != "check":
        return _unknown(name, file, f"a report of {document['command']}, not of check")
    data, code = document["data"], Exit(document["exit_code"])
    if data.get("installed") is False:  # --if-installed, and LMCache is not there
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
