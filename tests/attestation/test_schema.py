"""Our validator against the reference one, and the schema against what is published."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from gaudi_patch.attestation import schema
from gaudi_patch.attestation.document import ID, VERSION
from tests.attestation.conftest import written
from tests.support.tiny import Tiny

WRONG: list[Any] = [None, True, False, 0, 1, -1, 1.0, 1.5, "", "x", "../x", "/x", "a/./b", "a\\b", [], [None], {}]


def places(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The path of every value in a document."""
    yield path
    if isinstance(value, dict):
        for name, one in value.items():
            yield from places(one, (*path, name))
    elif isinstance(value, list):
        for number, one in enumerate(value[:2]):
            yield from places(one, (*path, number))


def broken(document: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The document with one thing wrong, in every place and way."""
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


def test_an_attestation_is_valid_by_the_reference_validator(attested: Tiny, report: Path) -> None:
    jsonschema.Draft202012Validator(schema.load()).validate(written(report))
    assert list(schema.faults(written(report))) == []


def test_our_validator_agrees_with_the_reference_on_every_broken_document(
    attested: Tiny, report: Path, record_property: pytest.RecordProperty
) -> None:
    reference = jsonschema.Draft202012Validator(schema.load())
    verdicts = []
    for what, document in broken(written(report)):
        verdicts.append(not list(schema.faults(document)))
        assert verdicts[-1] == reference.is_valid(document), what
    refused = verdicts.count(False)
    assert refused > len(verdicts) / 2
    record_property("broken attestations", refused)


def test_a_fault_names_its_place(attested: Tiny, report: Path) -> None:
    document = written(report)
    document["files"][1]["after"] = "x"
    assert next(schema.faults(document)).startswith("files[1].after does not have the form")


def test_a_word_of_json_schema_that_is_not_known_is_an_error_and_not_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "load", lambda: {"maxLength": 1})
    with pytest.raises(NotImplementedError, match="maxLength"):
        list(schema.faults("long"))


def test_a_text_that_ends_in_a_line_end_has_not_the_form(attested: Tiny, report: Path) -> None:
    """Python's $ also matches before it; the reference validator inherits that."""
    document = written(report)
    document["created"] += "\n"
    assert list(schema.faults(document))
