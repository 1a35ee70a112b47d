"""The schema equals the published one, and refuses documents that are not attestations."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema

from gaudi_patch.attestation import schema
from gaudi_patch.attestation.document import ID, VERSION
from tests.attestation.conftest import written
from tests.support.tiny import Tiny

WRONG: list[Any] = [None, True, False, 0, 1, -1, 1.0, 1.5, "", "x", "../x", "/x", "a/./b", "a\\b", [], [None], {}]


def places(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Yield the path of every value in a document."""
    yield path
    if isinstance(value, dict):
        for name, one in value.items():
            yield from places(one, (*path, name))
    elif isinstance(value, list):
        for number, one in enumerate(value[:2]):
            yield from places(one, (*path, number))


def broken(document: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the document with one fault, in every place and of every kind."""
    for path in places(document):
        if not path:
            yield from ((f"the whole: {wrong!r}", wrong) for wrong in WRONG)
            continue
        for wrong in ["delete", "add", *WRONG]:
            changed = copy.deepcopy(document)
            holder = changed
            for key in path[:-1]:
                holder = holder[key]  # type: ignore[index]
            if wrong == "delete":
                del holder[path[-1]]  # type: ignore[arg-type]
            elif wrong == "add":
                if not isinstance(holder[path[-1]], dict):  # type: ignore[index]
                    continue
                holder[path[-1]]["surprise"] = 1  # type: ignore[index]
            else:
                holder[path[-1]] = wrong  # type: ignore[index]
            yield f"{path}: {wrong!r}", changed


def test_the_schema_is_one_of_draft_2020_12_and_names_no_host() -> None:
    document = json.loads(schema.FILE.read_bytes())
    jsonschema.Draft202012Validator.check_schema(document)
    assert document["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert document["$id"] == ID == f"urn:gaudi-patch:attestation:{VERSION}"


def test_an_attestation_is_valid(attested: Tiny, report: Path) -> None:
    assert schema.faults(written(report)) == []


def test_documents_broken_in_any_place_are_refused(
    attested: Tiny, report: Path, record_property: Callable[[str, object], None]
) -> None:
    """Except where any text is allowed, and where a key may be missing."""
    refused = [what for what, document in broken(written(report)) if schema.faults(document)]
    assert not {f"the whole: {wrong!r}" for wrong in WRONG} - set(refused)
    for place in ("('sha256',)", "('files', 0, 'path')", "('outcome',)", "('package', 'name')"):
        for wrong in ("None", "1", "''", "[]", "{}"):
            assert f"{place}: {wrong}" in refused
    record_property("broken attestations", len(refused))


def test_a_fault_names_its_place(attested: Tiny, report: Path) -> None:
    document = written(report)
    document["files"][1]["after"] = "x"
    (fault,) = schema.faults(document)
    assert fault.startswith("files[1].after: 'x' does not match")
