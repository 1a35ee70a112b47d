"""`gaudi-patch bench` as a user runs it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gaudi_patch.bench import runs, side_by_side, workload
from gaudi_patch.bench.points import Point
from gaudi_patch.bench.runs import Measured
from gaudi_patch.bench.trees import Code
from gaudi_patch.commands.bench import rendered
from gaudi_patch.errors import Exit
from tests.bench.conftest import MakePoint
from tests.support import environments, tiny
from tests.support.cli import Done, gaudi_patch
from tests.support.environments import Environment

ZEROS = ("graph_compilation", "bounce_bytes", "view_writes", "cpu_fallback")


@pytest.fixture(scope="module")
def real(lmcache_overlay: Callable[[str], Environment], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return the JSON of one small run on a pristine release, which leaves the release's tree unchanged."""
    lmcache_overlay("0.5.6")
    # A copy: another test's interpreter may cache bytecode in the shared one.
    environment = environments.overlay_copy("0.5.6", tmp_path_factory.mktemp("real"))
    before = tiny.tree(environment.site_packages / "lmcache", times=True)
    options = ("--shapes", "70b-tp8,mla", "--contexts", "768,1K,16K", "--memory", "3", "--json")
    # It takes 75 s of one processor; a busy machine may take ten times as long.
    run = ("bench", "--python", environment.python, "--device", "emulated", *options)
    done = gaudi_patch(*run, timeout=1800)
    assert done.code == 0, done.out + done.err
    assert tiny.tree(environment.site_packages / "lmcache", times=True) == before
    return {"data": done.json["data"]}


@pytest.mark.torch
@pytest.mark.wheels
def test_both_codes_are_measured_for_each_shape_length_and_direction(real: dict[str, Any]) -> None:
    found = {(one["code"], one["shape"], one["tokens"], one["direction"]) for one in real["data"]["points"]}
    assert found == {
        (code, shape, tokens, direction)
        for code in ("stock", "patched")
        for shape in ("70b-tp8", "mla")
        for tokens in (768, 1024, 16384)
        for direction in ("store", "load")
    }
    assert real["data"]["connectors"] == {"stock": "VLLMPagedMemHPUConnectorV2", "patched": "GaudiConnector"}
    assert real["data"]["device"] == "emulated"
    assert real["data"]["failures"] == []


@pytest.mark.torch
@pytest.mark.wheels
def test_a_request_longer_than_memory_goes_over_it_again_and_is_measured_whole(real: dict[str, Any]) -> None:
    for one in real["data"]["points"]:
        long = one["tokens"] == 16384
        assert (one["held"] < 16384 and one["held"] % 256 == 0) if long else one["held"] == one["tokens"]
        if long and one["code"] == "patched":
            assert one["counts"]["graph_launches"] == 16384 // 256 // 8
            assert one["counts"]["h2d_copies"] + one["counts"]["d2h_copies"] == 16384 // 256 + 8
    assert real["data"]["skipped"] == []


@pytest.mark.torch
@pytest.mark.wheels
def test_the_engine_is_measured_unpatched_by_its_ring_and_directly(
    lmcache_overlay: Callable[[str], Environment],
) -> None:
    points, data = _through("engine", lmcache_overlay)
    assert set(data["connectors"]) == {"stock", "ring", "patched"}
    assert data["failures"] == []
    for direction in ("store", "load"):
        stock, ring, direct = (points[code, direction] for code in ("stock", "ring", "patched"))
        size = direct["bytes"]
        assert stock["counts"]["host_copied_bytes"] > size // 2
        assert (ring["counts"]["host_copied_bytes"], ring["counts"]["bounce_bytes"]) == (size, 0)
        assert (direct["counts"]["host_copied_bytes"], direct["counts"]["bounce_bytes"]) == (0, 0)
        for one in (ring, direct):  # 768 tokens are a group of two chunks and a group of one
            assert one["counts"]["graph_launches"] == 2 < stock["counts"]["graph_launches"]
            assert one["counts"]["device_syncs"] == 1 < stock["counts"]["device_syncs"]
            assert one["counts"]["graph_compilation"] == one["compiled_for_other"] == 0
        assert direct["exposed_seconds"] < ring["exposed_seconds"] < stock["exposed_seconds"]


@pytest.mark.torch
@pytest.mark.wheels
def test_multiprocess_mode_is_measured_through_shared_memory(lmcache_overlay: Callable[[str], Environment]) -> None:
    points, data = _through("multiprocess", lmcache_overlay)
    assert data["connectors"] == {"patched": "Transfer"}
    # As released, LMCache 0.5.6 does not get as far as a transfer on an HPU.
    ((code, why),) = [(failure["code"], failure["reason"]) for failure in data["failures"]]
    assert (code, "synchronize" in why) == ("stock", True)
    for direction in ("store", "load"):
        one = points["patched", direction]
        # The server's memory cannot be pinned: once by the host, and not by the bridge.
        assert (one["counts"]["host_copied_bytes"], one["counts"]["bounce_bytes"]) == (one["bytes"], 0)
        assert one["counts"]["graph_launches"] == 2  # a group of two chunks and a group of one
        assert one["counts"]["graph_compilation"] == one["compiled_for_other"] == 0
        assert one["other_tokens"] == 512  # whole chunks


def _through(way: str, overlay: Callable[[str], Environment]) -> tuple[dict[tuple[str, str], Any], dict[str, Any]]:
    """Return the points of one small run by code and direction, and all of its JSON."""
    python = overlay("0.5.6").python
    options = ("--shapes", "mla", "--contexts", "768", "--memory", "3", "--through", way, "--json")
    done = gaudi_patch("bench", "--python", python, "--device", "emulated", *options, timeout=1800)
    assert done.code == 0, done.out + done.err
    data = done.json["data"]
    assert data["through"] == way
    return {(one["code"], one["direction"]): one for one in data["points"]}, data


def test_a_length_that_the_engine_cannot_hold_whole_is_skipped_and_the_others_are_measured() -> None:
    shape = workload.SHAPES[0]
    limit = workload.needed_bytes(shape, 2048)
    request = runs.Request([shape], [2048, 8192], memory=limit, through="engine")
    measured = Measured("emulated")
    assert runs._fitting(measured, shape, request) == ([2048], 2048)
    assert [(one.tokens, "needs 5.2 GiB" in one.reason) for one in measured.skipped] == [(8192, True)]
    measured = Measured("emulated")
    assert runs._fitting(measured, shape, runs.Request([shape], [2048], memory=limit - 1, through="engine"))[1] == 0
    assert [one.tokens for one in measured.skipped] == [2048]


def test_the_ring_is_shown_between_both_codes_where_it_was_measured(make_point: MakePoint) -> None:
    from gaudi_patch.bench import chart, points

    (pair,) = points.pairs_of([make_point("stock"), make_point("patched", launches=1), make_point("ring", launches=2)])
    assert points.count_row(pair)[1] == "8 -> 2 -> 1"
    assert [bar.code for bar in chart.bars([pair], chart.METRICS[1])] == ["stock", "ring", "patched"]


def test_a_ring_that_fails_fails_the_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, make_point: MakePoint
) -> None:
    measured = Measured("emulated", [make_point("patched")], failures=[("ring", "8b", "3 planes differ")])
    assert _shown(monkeypatch, tmp_path, measured).exit is Exit.SMOKE


def test_memory_that_holds_too_little_is_told_for_each_length(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, make_point: MakePoint
) -> None:
    from gaudi_patch.bench.workload import SHAPES, none_fits
    from gaudi_patch.output.report import plain

    skipped = none_fits(SHAPES[0], [2048, 262144], 1 << 30)
    result = _shown(monkeypatch, tmp_path, Measured("emulated", [make_point("patched", shape="mla")], skipped))
    text = " ".join("".join(plain(block) for block in result.blocks).split())
    assert "8b 2K needs 3.8 GiB of memory, 1.0 GiB are allowed" in text
    assert "8b 256K needs" in text


def test_a_star_tells_which_lengths_are_longer_than_what_memory_held(make_point: MakePoint) -> None:
    from gaudi_patch.bench import points

    pairs = points.pairs_of([make_point("patched"), make_point("patched", tokens=8192, held=4096)])
    assert [points.count_row(pair)[0] for pair in pairs] == ["store 2K", "store 8K*"]
    assert "KV of 4K tokens only" in points.repeated(pairs)
    assert points.repeated(pairs[:1]) == ""


@pytest.mark.torch
@pytest.mark.wheels
def test_every_point_has_the_figures_that_are_promised(real: dict[str, Any]) -> None:
    sizes = {shape["name"]: shape["token_bytes"] for shape in real["data"]["shapes"]}
    for one in real["data"]["points"]:
        assert one["bytes"] == one["tokens"] * sizes[one["shape"]]
        assert min(one[name] for name in ("seconds", "cpu_seconds", "memcpy_seconds", "memcpy_cpu_seconds")) > 0
        assert one["runs"] >= 1
        assert one["other_tokens"] % real["data"]["chunk_tokens"]
        assert {"graph_launches", "graph_compilation", "h2d_copies", "d2h_copies", "device_syncs"} <= set(one["counts"])


@pytest.mark.torch
@pytest.mark.wheels
def test_the_patched_code_keeps_the_budgets_where_the_stock_code_does_not(real: dict[str, Any]) -> None:
    points = {(one["code"], one["shape"], one["tokens"], one["direction"]): one for one in real["data"]["points"]}
    for (code, shape, tokens, direction), one in points.items():
        if code != "patched":
            continue
        stock = points["stock", shape, tokens, direction]
        assert all(one["counts"][name] == 0 for name in ZEROS)
        assert one["compiled_for_other"] == 0 < stock["compiled_for_other"]
        assert one["counts"]["device_syncs"] == 1 < stock["counts"]["device_syncs"]
        # 768 tokens are a group of two chunks and a group of one; 1024 are one group of four.
        launches = {768: 2, 1024: 1}.get(tokens, tokens // 2048)
        assert one["counts"]["graph_launches"] == launches < stock["counts"]["graph_launches"]


def _usage(*arguments: str | Path) -> Done:
    return gaudi_patch("bench", *arguments, "--json")


def test_an_interpreter_without_pytorch_is_refused_with_the_reason(tmp_path: Path) -> None:
    small = tiny.make(tmp_path)
    import venv

    venv.create(tmp_path / "venv", with_pip=False, symlinks=True)
    site = next((tmp_path / "venv" / "lib").iterdir()) / "site-packages"
    for name in ("lmcache", small.dist_info.name):
        (site / name).parent.mkdir(exist_ok=True)
        (small.site / name).rename(site / name)
    done = _usage("--python", tmp_path / "venv/bin/python", "--manifest", small.manifest.directory)
    assert (done.code, done.code_of_error) == (4, "cannot-measure")
    (error,) = done.json["errors"]
    assert "PyTorch is not installed for this interpreter" in error["message"]
    assert "--python" in error["hint"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--contexts", "2M"), "--contexts must be lengths"),
        (("--shapes", "13b"), "--shapes must be some of 8b"),
        (("--rules", "both"), "--rules must be"),
        (("--rules", "lazy,eager"), "one mode for --rules: lazy or eager"),
        (("--device", "gpu"), "--device must be"),
        (("--through", "vllm"), "--through must be one of connector, engine, multiprocess"),
        (("--through", "multiprocess", "--contexts", "1000"), "multiples of 256 tokens with --through multiprocess"),
    ],
)
def test_a_wrong_option_is_refused_before_anything_runs(arguments: tuple[str, ...], said: str, tmp_path: Path) -> None:
    small = tiny.make(tmp_path)
    done = _usage("--path", small.site, "--manifest", small.manifest.directory, *arguments)
    assert (done.code, done.code_of_error) == (2, "usage")
    assert said in done.json["errors"][0]["message"]


def _shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, measured: Measured) -> Any:
    monkeypatch.setattr(side_by_side, "run", lambda *arguments: measured)
    small = tiny.make(tmp_path)
    options = side_by_side.BenchOptions(memory=1 << 30)
    return rendered(side_by_side.compare(small.manifest, small.installation, options, lambda line: None))


def test_a_stock_code_that_fails_is_a_finding(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, make_point: MakePoint
) -> None:
    measured = Measured("emulated", [make_point("patched")], failures=[("stock", "8b", "TypeError: no tensor")])
    result = _shown(monkeypatch, tmp_path, measured)
    assert result.exit is Exit.OK
    assert result.warnings == ["unpatched code, 8b: no figures: TypeError: no tensor"]


def test_a_patched_code_that_fails_fails_the_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, make_point: MakePoint
) -> None:
    measured = Measured("emulated", [make_point("stock")], failures=[("patched", "8b", "3 planes differ")])
    result = _shown(monkeypatch, tmp_path, measured)
    assert result.exit is Exit.SMOKE
    assert [error.code for error in result.errors] == ["bench-failed"]


def test_a_run_that_measured_nothing_is_no_success(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    result = _shown(monkeypatch, tmp_path, Measured("emulated"))
    assert result.exit is Exit.ENVIRONMENT
    assert result.errors[0].code == "cannot-measure"


def test_tables_and_bars_are_printed_with_what_the_device_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, make_point: MakePoint
) -> None:
    from gaudi_patch.output.report import plain

    result = _shown(monkeypatch, tmp_path, Measured("emulated", [make_point("stock"), make_point("patched")]))
    text = "".join(plain(block) for block in result.blocks)
    assert "Llama-3.1-8B, 128 KiB per token, unpatched -> patched: counts" in text
    assert re.search(r"8b 2K store +stock ", text)
    assert "These are not times of a Gaudi." in " ".join(text.split())
    assert json.loads(result.to_json())["data"]["points"][0]["code"] == "stock"


def test_memory_that_is_free_is_told_in_bytes() -> None:
    assert 0 < runs.available_bytes() < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_figures_of_a_process_that_failed_a_comparison_do_not_count(make_point: MakePoint) -> None:
    from gaudi_patch.smoke.counted import Counters
    from gaudi_patch.smoke.outcome import LevelResult

    one: Point = make_point("patched")
    point = {name: value for name, value in vars(one).items() if name not in ("code", "shape")}
    counters = {"connector": "GaudiConnector", "points": [point]}
    for status, kept in (("passed", 1), ("failed", 0)):
        measured = Measured("emulated")
        result = LevelResult("bench", status, "why", 1.0, "emulated", "lazy", counters=Counters.read(counters))  # type: ignore[arg-type]
        runs._add(measured, Code("patched", Path("/site"), laid_out=False), "8b", [2048], result)
        assert len(measured.points) == kept
        assert len(measured.failures) == 1 - kept


@pytest.mark.parametrize(
    ("spoiled", "said"),
    [
        ({"connector": 7}, "no connector is named"),
        ({"points": None}, "no list of figures"),
        ({"points": [{"tokens": 2048}]}, "not the figures"),
        ({"seconds": 0.0}, "impossible figures"),  # it would be divided by
        ({"counts": {"graph_launches": "3"}}, "impossible figures"),
        ({"direction": "sideways"}, "impossible figures"),
    ],
)
def test_a_report_that_is_not_as_agreed_gives_no_figures(
    make_point: MakePoint, spoiled: dict[str, Any], said: str
) -> None:
    from gaudi_patch.smoke.counted import Counters
    from gaudi_patch.smoke.outcome import LevelResult

    figures = {name: value for name, value in vars(make_point("patched")).items() if name not in ("code", "shape")}
    report = {"connector": "GaudiConnector", "points": [figures | spoiled], **spoiled}
    result = LevelResult("bench", "passed", "why", 1.0, "emulated", "lazy", counters=Counters.read(report))
    measured = Measured("emulated")
    runs._add(measured, Code("patched", Path("/site"), laid_out=False), "8b", [2048], result)
    assert (measured.points, measured.connectors, len(measured.failures)) == ([], {}, 1)
    assert said in measured.failures[0][2]


def test_a_device_without_room_is_told_once_for_each_length_and_is_no_failure_of_the_patched_code(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from gaudi_patch.smoke.outcome import LevelResult

    measured = Measured("hpu")
    for code in ("patched", "stock"):
        result = LevelResult("bench", "skipped", "the device has 3 MiB free", 1.0, "hpu", "lazy")
        runs._add(measured, Code(code, Path("/site"), laid_out=False), "8b", [2048, 8192], result)
    assert [(one.tokens, one.reason) for one in measured.skipped] == [
        (2048, "the device has 3 MiB free"),
        (8192, "the device has 3 MiB free"),
    ]
    shown = _shown(monkeypatch, tmp_path, measured)
    assert (shown.exit, shown.errors[0].code) == (Exit.ENVIRONMENT, "cannot-measure")


def test_a_failure_is_told_by_its_cause_and_the_path_within_the_package() -> None:
    from gaudi_patch.smoke.counted import Failure
    from gaudi_patch.smoke.outcome import LevelResult

    failures = (Failure("bench", "TypeError: no (/tmp/x/tree/lmcache/a.py:7)"),)
    result = LevelResult("bench", "failed", "more words", 1.0, "emulated", "lazy", failures=failures)
    measured = Measured("emulated")
    runs._add(measured, Code("stock", Path("/tmp/x/tree"), laid_out=True), "8b", [2048], result)
    assert measured.failures == [("stock", "8b", "TypeError: no (lmcache/a.py:7)")]


def test_the_command_line_has_the_defaults_of_the_verb() -> None:
    """The defaults are written twice, so that start-up imports nothing of bench."""
    import inspect

    from gaudi_patch.commands.bench import bench

    defaults = {name: one.default for name, one in inspect.signature(bench).parameters.items()}
    options = side_by_side.BenchOptions()
    assert workload.shapes_of(defaults["shapes"]) == list(options.shapes)
    assert defaults["contexts"] == workload.CONTEXTS
    for name in ("device", "rules", "memory", "timeout", "through"):
        assert defaults[name] == getattr(options, name), name
