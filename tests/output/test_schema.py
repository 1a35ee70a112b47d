"""The output of --json follows the published schema, for every command and every kind of end."""

from __future__ import annotations

import copy
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from gaudi_patch.bench import side_by_side, workload
from gaudi_patch.bench.points import Point
from gaudi_patch.bench.runs import Measured
from gaudi_patch.commands import bench, demo, doctor, guide, recipe, smoke
from gaudi_patch.demo.story import Step, Story
from gaudi_patch.doctor.examine import examine
from gaudi_patch.doctor.host import Host
from gaudi_patch.errors import Exit, GaudiPatchError
from gaudi_patch.output import schema
from gaudi_patch.output.result import Result
from gaudi_patch.series.manifest import load
from gaudi_patch.smoke.checks import Proof
from gaudi_patch.smoke.counted import Counters, Failure
from gaudi_patch.smoke.outcome import LevelResult
from gaudi_patch.target.search import Target
from tests.cli.command_line import document
from tests.support import output_schema, tiny
from tests.support.cli import command, environment, gaudi_patch
from tests.support.tiny import Tiny

PASSED = LevelResult(
    "kernels", "passed", "16 shapes", 1.5, "emulated", "lazy", 3, (), Counters.read({"a": {"b": 1}}), "", 0
)
FAILED = LevelResult(
    "engine", "failed", "2 differ", 1.0, "hpu", "eager", 3, (Failure("x", "y", {"more": 1}),), Counters(), "end", 1
)
SKIPPED = LevelResult("imports", "skipped", "no PyTorch", 0.0, "none", "lazy")
FAULT = GaudiPatchError(Exit.SMOKE, "smoke-failed", "1 of 3", "hint", "/file", 3, ["detail", ""])


def held(result: Result) -> dict[str, Any]:
    """Return the object of ``result``, which the schema accepts."""
    text = result.to_json()
    output_schema.hold(text)
    found: dict[str, Any] = json.loads(text)
    return found


@pytest.fixture
def target(tmp_path: Path) -> Tiny:
    return tiny.make(tmp_path / "caf\udce9 \x1b[31m")


def test_it_is_printed_byte_for_byte_as_it_is_shipped() -> None:
    done = subprocess.run(command("--json-schema"), capture_output=True, env=environment(), check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == schema.FILE.read_bytes()
    assert json.loads(done.stdout)["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def test_every_command_has_a_definition_of_its_own() -> None:
    loaded = json.loads(schema.text())
    names = [name.replace(" ", "-") for name in loaded["properties"]["command"]["enum"]]
    assert set(names) <= set(loaded["$defs"])
    branches = [one["properties"]["command"]["const"] for one in loaded["allOf"][2]["anyOf"][3:]]
    assert branches == loaded["properties"]["command"]["enum"]


def test_the_engines_commands_in_every_state(target: Tiny) -> None:
    assert document(target, "check")["exit_code"] == 10
    assert document(target, "apply", "--dry-run", "--diff")["data"]["changed"] is False
    assert document(target, "apply")["data"]["changed"] is True
    assert document(target, "apply")["data"]["changed"] is False
    assert document(target, "check")["exit_code"] == 0
    (target.site / "lmcache" / "engine.py").write_bytes(b"edited\n")
    assert document(target, "check")["exit_code"] == 1
    assert document(target, "apply")["exit_code"] == 1
    assert document(target, "rollback")["exit_code"] == 1
    saved = document(target, "rollback", "--force", "--save-to", str(target.site.parent))
    assert len(saved["data"]["saved"]) == 1
    assert document(target, "rollback")["data"]["changed"] is False


def test_attestations_and_what_is_not_as_attested(target: Tiny, tmp_path: Path) -> None:
    file = str(tmp_path / "attestation.json")
    assert document(target, "apply", "--report", file)["data"]["report"]["path"] == file
    assert document(target, "check", "--against", file)["data"]["against"]["differences"] == []
    (target.site / "lmcache" / "engine.py").write_bytes(b"edited\n")
    assert document(target, "check", "--against", file)["data"]["against"]["differences"]
    Path(file).write_text("{}")
    assert document(target, "check", "--against", file)["exit_code"] == 2


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("list",), 0),
        (("show", "0.5.6"), 0),
        (("show", "0.0.1"), 3),
        (("guide",), 0),
        (("guide", "caching"), 0),
        (("guide", "no-such"), 2),
        (("recipe",), 0),
        (("recipe", "disk", "--lmcache", "0.5.6"), 0),
        (("recipe", "no-such", "--lmcache", "0.5.6"), 2),
        (("check", "--path", "EMPTY"), 3),
        (("check", "--path", "EMPTY", "--if-installed"), 0),
        (("apply", "--path", "EMPTY", "--if-installed"), 0),
        (("apply", "--path", "EMPTY/nowhere"), 2),
        (("rollback", "--path", "EMPTY"), 3),
        (("smoke", "--path", "EMPTY"), 3),
        (("smoke", "--rules", "both"), 2),
        (("bench", "--path", "EMPTY"), 3),
        (("doctor", "--path", "EMPTY"), 0),
        (("doctor", "--config", "EMPTY/nowhere"), 2),
        (("demo", "--version", "9.9"), 3),
        (("dev", "lint", "--manifest", "EMPTY"), 2),
        (("dev", "edit", "9.9"), 3),
        (("dev", "refresh", "EMPTY"), None),
        (("dev", "port", "--abort", "EMPTY"), None),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else str(value),
)
def test_every_command_ends_in_an_object_of_the_schema(
    arguments: tuple[str, ...], code: int | None, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    words = [word.replace("EMPTY", str(tmp_path / "empty")) for word in arguments]
    done = gaudi_patch(*words, "--json", env={"GAUDI_PATCH_CACHE": str(tmp_path / "cache")})
    assert done.json["exit_code"] == done.code
    assert done.code == code if code is not None else done.code in (1, 2, 3, 4)


def test_smoke_levels_of_each_status() -> None:
    assert held(smoke.rendered(Proof((PASSED, SKIPPED), None)))["exit_code"] == 0
    assert held(smoke.rendered(Proof((PASSED, FAILED), FAULT)))["exit_code"] == 5


def test_bench_with_figures_failures_and_nothing(make_measured: Measured) -> None:
    shapes = workload.SHAPES
    assert held(bench.rendered(side_by_side.Comparison("0.5.6", "lazy", shapes, 1, make_measured)))["exit_code"] == 0
    empty = Measured("hpu", failures=[("patched", "8b", "no")], skipped=[workload.Skipped("mla", 2048, "full")])
    assert held(bench.rendered(side_by_side.Comparison("", "eager", shapes, 1, empty)))["exit_code"] == 5
    assert held(bench.rendered(side_by_side.Comparison("", "eager", shapes, 1, Measured("hpu"))))["exit_code"] == 4


@pytest.fixture
def make_measured() -> Measured:
    counts = {"graph_launches": 3}
    points = [
        Point(2048, 2048, "store", 10, counts, 1500, other, 0.5, 0.5, 0.1, 0.1, 3, code=code, shape="8b")
        for code, other in (("stock", None), ("patched", 0))
    ]
    return Measured("emulated", points, connectors={"stock": "A", "patched": "B"})


def test_demo_that_succeeded_and_that_failed(tmp_path: Path) -> None:
    steps = [Step("check", True, "exit 10: pristine", 0.1), Step("compare", True, "every byte as installed")]
    assert held(demo.rendered(Story("0.5.6", tmp_path, steps, [FAILED], [PASSED])))["exit_code"] == 0
    failed = [Step("apply", False, "exit 4: no room", 0.1)]
    assert held(demo.rendered(Story("0.5.6", None, failed)))["exit_code"] == 1


def test_doctor_guide_and_recipe_as_they_are_rendered(tmp_path: Path) -> None:
    held(doctor.rendered(examine(load(), Target(path=tmp_path), host=Host(tmp_path, {}))))
    held(guide.page("caching"))
    held(recipe.modes())


@pytest.mark.parametrize("where", [(), ("data",), ("data", "files", 0), ("errors", 0)])
def test_a_key_that_is_not_published_is_found(where: tuple[Any, ...], target: Tiny) -> None:
    """A schema that accepts everything proves nothing."""
    (target.site / "lmcache" / "engine.py").write_bytes(b"edited\n")
    whole = document(target, "check")
    assert output_schema.faults(whole) == []
    part = whole
    for key in where:
        part = part[key]
    added, removed = copy.deepcopy(whole), copy.deepcopy(whole)
    for changed, act in ((added, "add"), (removed, "remove")):
        inner: Any = changed
        for key in where:
            inner = inner[key]
        if act == "add":
            inner["surprise"] = 1
        else:
            del inner[sorted(part)[0]]
        assert output_schema.faults(changed), (where, act)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("exit_code", 99),
        ("exit_code", 0),
        ("status", "ok"),
        ("command", "nonsense"),
        ("schema_version", 2),
        ("data", []),
    ],
)
def test_an_object_that_contradicts_itself_is_found(key: str, value: object, target: Tiny) -> None:
    (target.site / "lmcache" / "engine.py").write_bytes(b"edited\n")
    whole = document(target, "check")
    assert output_schema.faults({**whole, key: value})


def test_data_of_another_command_is_found(target: Tiny) -> None:
    assert output_schema.faults({**document(target, "check"), "command": "smoke", "exit_code": 0})
