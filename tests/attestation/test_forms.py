"""The attestation as in-toto statement and CycloneDX document: valid for the publishers of both forms."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from cyclonedx import schema as cyclonedx_schema
from google.protobuf import json_format
from in_toto_attestation.v1.statement import Statement
from jsonschema import Draft7Validator, Draft202012Validator
from referencing import Registry, Resource

from gaudi_patch.attestation import cyclonedx, forms, intoto
from gaudi_patch.attestation import schema as own_schema
from gaudi_patch.errors import GaudiPatchError
from tests.attestation.conftest import written
from tests.support import patched_wheel
from tests.support.cli import gaudi_patch
from tests.support.tiny import PATCHED, Tiny

RESOURCES = Path(cyclonedx_schema.__file__).parent / "_res"
ARTIFACT = ("lmcache-0.5.6+gaudi.1-py3-none-any.whl", "ab" * 32)


@cache
def bom_validator() -> Draft7Validator:
    """Return a validator for CycloneDX 1.6's own schema, as shipped in their library."""
    names = ("spdx.SNAPSHOT.schema.json", "jsf-0.82.SNAPSHOT.schema.json")
    found = {name: json.loads((RESOURCES / name).read_text()) for name in names}
    bom = json.loads((RESOURCES / "bom-1.6.SNAPSHOT.schema.json").read_text())
    base = bom["$id"].rpartition("/")[0]
    resources = [(one["$id"], Resource.from_contents(one)) for one in (bom, *found.values())]
    resources += [(f"{base}/{name}", Resource.from_contents(one)) for name, one in found.items()]
    return Draft7Validator(bom, registry=Registry().with_resources(resources))


def bom_faults(document: Any) -> list[str]:
    return [f"{error.json_path}: {error.message}" for error in bom_validator().iter_errors(document)]


@pytest.fixture(params=["applied", "built"])
def attestation(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """Return the attestation of a patched installation, or that of a patched wheel."""
    if request.param == "built":
        return patched_wheel.release(tmp_path).build(tmp_path / "new.whl").attestation
    request.getfixturevalue("attested")
    return written(request.getfixturevalue("report"))


@pytest.mark.parametrize("artifact", [None, ARTIFACT], ids=["files", "wheel"])
def test_the_cyclonedx_document_is_valid_by_its_official_schema(
    artifact: tuple[str, str] | None, attestation: dict[str, Any]
) -> None:
    document = cyclonedx.document(attestation, artifact)
    assert bom_faults(document) == []
    assert document == cyclonedx.document(attestation, artifact)  # no time, no random number


def test_the_official_schema_is_one_that_refuses(attestation: dict[str, Any]) -> None:
    for edit in (
        lambda found: found.update(bomFormat="SPDX"),
        lambda found: found["components"][0]["pedigree"]["patches"][0].update(type="diff"),
        lambda found: found["components"][0].pop("name"),
        lambda found: found.update(surprise=1),
    ):
        document = copy.deepcopy(cyclonedx.document(attestation))
        edit(document)
        assert bom_faults(document)


def test_the_pedigree_names_ancestor_and_each_patch_by_its_hash(attestation: dict[str, Any]) -> None:
    (component,) = cyclonedx.document(attestation)["components"]
    pedigree = component["pedigree"]
    urls = [one["diff"]["url"] for one in pedigree["patches"]]
    assert urls == [f"urn:gaudi-patch:diff:sha256:{one['sha256']}" for one in attestation["patches"]]
    (ancestor,) = pedigree["ancestors"]
    assert ancestor["purl"] == "pkg:pypi/lmcache@0.5.6"
    files = {one["name"]: one["hashes"][0]["content"] for one in component["components"]}
    assert files == {path: hashlib.sha256(data).hexdigest() for path, data in PATCHED.items() if data is not None}
    if attestation["outcome"] == "built":
        assert component["purl"] == "pkg:pypi/lmcache@0.5.6%2Bgaudi.1"
        assert ancestor["hashes"][0]["content"] == attestation["release"]["sha256"]


@pytest.mark.parametrize("artifact", [None, ARTIFACT], ids=["files", "wheel"])
def test_the_statement_is_one_by_in_totos_own_library(
    artifact: tuple[str, str] | None, attestation: dict[str, Any]
) -> None:
    document = intoto.statement(attestation, artifact)
    parsed = Statement([], "", {})
    json_format.Parse(json.dumps(document), parsed.pb)  # refuses fields that a statement does not have
    parsed.validate()
    assert json_format.MessageToDict(parsed.pb) == json.loads(json.dumps(document), parse_int=float)
    predicate = json.loads(forms.SCHEMAS["predicate"].read_bytes())
    Draft202012Validator.check_schema(predicate)
    jsonschema.validate(document["predicate"], predicate)
    assert own_schema.faults(document["predicate"]["attestation"]) == []


def test_its_subjects_are_the_wheel_or_the_files_as_they_are_on_disk(attestation: dict[str, Any]) -> None:
    (subject,) = intoto.statement(attestation, ARTIFACT)["subject"]
    assert subject == {"name": ARTIFACT[0], "digest": {"sha256": ARTIFACT[1]}}
    subjects = intoto.statement(attestation)["subject"]
    assert len(subjects) == len([data for data in PATCHED.values() if data is not None])


def test_a_release_that_needs_no_patch_has_no_statement(attestation: dict[str, Any]) -> None:
    nothing = {**attestation, "files": [], "patches": [], "series": None, "outcome": "not-needed"}
    with pytest.raises(GaudiPatchError) as refused:
        intoto.statement(nothing)
    assert refused.value.code == "nothing-to-state"
    assert bom_faults(cyclonedx.document(nothing)) == []


def test_the_command_writes_both_and_leaves_the_attestation_alone(attested: Tiny, report: Path, tmp_path: Path) -> None:
    before = report.read_bytes()
    statement, bom = tmp_path / "a.intoto.json", tmp_path / "a.cdx.json"
    done = gaudi_patch("attest", report, "--in-toto", statement, "--cyclonedx", bom, "--json")
    assert (done.code, done.json["data"]["written"]) == (0, [str(statement), str(bom)])
    assert done.json["data"]["signed_by"] is None
    assert json.loads(statement.read_bytes()) == intoto.statement(written(report))
    assert json.loads(bom.read_bytes()) == cyclonedx.document(written(report))
    assert report.read_bytes() == before


@pytest.mark.parametrize("name", ["attestation", "predicate"])
def test_the_schemas_are_published_by_the_command(name: str) -> None:
    done = gaudi_patch("attest", "--schema", name)
    assert done.code == 0
    assert json.loads(done.out) == json.loads(forms.SCHEMAS[name].read_bytes())
    assert gaudi_patch("attest", "--schema", "other", "--json").code_of_error == "usage"
    assert gaudi_patch("attest", "--json").code_of_error == "usage"


def test_a_damaged_attestation_is_given_no_other_form(
    attested: Tiny, report: Path, tmp_path: Path, rewrite: Callable[..., None]
) -> None:
    document = written(report)
    document["patches"] = []
    report.write_text(json.dumps(document))
    done = gaudi_patch("attest", report, "--cyclonedx", tmp_path / "bom.json", "--json")
    assert (done.code, done.code_of_error) == (2, "bad-attestation")
    assert not (tmp_path / "bom.json").exists()
