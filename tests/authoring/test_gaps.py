"""A port's report names the capabilities that its smoke checks did not cover."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gaudi_patch.authoring import gaps, lint, port
from gaudi_patch.authoring import prove as proving
from gaudi_patch.authoring.gaps import Gap
from gaudi_patch.commands.dev.port import SHOWN, report, to_look_at
from gaudi_patch.errors import Exit, GaudiPatchError
from gaudi_patch.output.report import Result, plain
from gaudi_patch.series.manifest import Capability, Patch, load
from gaudi_patch.smoke import levels
from gaudi_patch.smoke.outcome import LevelResult, Status
from tests.authoring.conftest import BASE, ENGINE, Shelf, changed

CAPABILITIES = [
    Capability("fast", "", "", ("kernels",)),
    Capability("both", "", "", ("kernels", "inference")),
    Capability("strict", "", "", ()),
]


def level(name: str, status: Status) -> LevelResult:
    return LevelResult(name, status, "why", 1.0, "emulated", "lazy")


def test_a_capability_is_proved_by_all_of_its_levels_under_all_rules() -> None:
    passed = [level("kernels", "passed"), level("kernels", "passed"), level("inference", "skipped")]
    assert gaps.gaps(CAPABILITIES, passed) == [Gap("both", ("inference",)), Gap("strict", ())]
    mixed = [level("kernels", "passed"), level("kernels", "failed"), level("inference", "passed")]
    assert gaps.gaps(CAPABILITIES, mixed) == [
        Gap("fast", ("kernels",)),
        Gap("both", ("kernels",)),
        Gap("strict", ()),
    ]
    assert gaps.gaps(CAPABILITIES, []) == [
        Gap("fast", ("kernels",)),
        Gap("both", ("kernels", "inference")),
        Gap("strict", ()),
    ]


def test_the_levels_of_the_manifest_are_those_that_its_evidence_names() -> None:
    for one in load().capabilities.values():
        how = re.split(r"(?:Checked|Counted) by ", one.evidence)[1:]
        told = set(re.findall("|".join(levels.names()), "".join(how)))
        assert set(one.smoke) == told, one.id


def test_lint_refuses_a_level_that_does_not_exist(shelf: Shelf) -> None:
    with (shelf.directory / "manifest.toml").open("a") as stream:
        stream.write('\n[[capability]]\nid = "fast"\nsummary = "it is"\nsmoke = ["kernels", "kernel"]\n')
    with pytest.raises(GaudiPatchError, match=r"capability fast: no smoke level kernel$"):
        lint.lint(shelf.directory, write=True)


def ported(shelf: Shelf, folder: Path, files: dict[str, str]) -> Result:
    shelf.release("1.0.1", {**BASE, **files})
    return report(port.port("1.0.0", "1.0.1", folder, shelf.directory, port.PortOptions(smoke=False)))


def test_calls_to_a_device_that_are_new_in_the_release_are_shown_with_their_place(shelf: Shelf, tmp_path: Path) -> None:
    result = ported(
        shelf,
        tmp_path / "w",
        {
            "lmcache/engine.py": changed(ENGINE, ("line_20 = 20\n", "line_20 = torch_dev.synchronize(device)\n")),
            "lmcache/non_cuda_equivalents.py": "torch.cuda.init()\n",
            "lmcache/v1/platform/devices/cuda/ops.py": "torch.cuda.synchronize()\n",
            "lmcache/v1/xpu_connectors.py": "torch_dev.synchronize()\n",
            "lmcache/events.py": "stop = threading.Event()\n# torch.cuda is not for us\n",
        },
    )
    assert result.exit is Exit.OK
    assert result.data["device_calls"] == [
        {"file": "lmcache/engine.py", "line": 20, "text": "line_20 = torch_dev.synchronize(device)"},
        {"file": "lmcache/non_cuda_equivalents.py", "line": 1, "text": "torch.cuda.init()"},
    ]
    text = "".join(plain(block) for block in result.blocks)
    assert "  lmcache/engine.py:20: line_20 = torch_dev.synchronize(device)\n" in text


def test_a_call_that_only_moved_is_not_new(shelf: Shelf, tmp_path: Path) -> None:
    old = {**BASE, "lmcache/a.py": "x = 1\ntorch.cuda.synchronize()\n"}
    shelf.release("1.0.0", old)
    result = ported(shelf, tmp_path / "w", {"lmcache/b.py": "def f():\n    torch.cuda.synchronize()\n"})
    assert result.data["device_calls"] == []


def test_the_calls_that_are_not_shown_are_counted() -> None:
    calls = [gaps.Call("a.py", number, "torch.cuda.init()") for number in range(SHOWN + 3)]
    head, *lines = "".join(plain(block, 200) for block in to_look_at([], calls, [])).splitlines()
    assert len(lines) == SHOWN
    assert f"the first {SHOWN} of {SHOWN + 3}" in head


@pytest.mark.parametrize(
    ("text", "release", "stale"),
    [
        ("no supported vllm-gaudi pairs with LMCache 0.4.2 to 0.4.4", "0.4.5", True),
        ("no supported vllm-gaudi pairs with LMCache 0.4.2 to 0.4.4", "0.4.2", False),
        ("no supported vllm-gaudi pairs with LMCache 0.3.9.post1 to 0.3.9.post2", "0.3.9.post2", False),
        ("no supported vllm-gaudi pairs with LMCache 0.5.3", "0.5.4", True),
        ("LMCache broadcasts on the current device", "0.5.7", False),
        ("the runtime is upstream", "0.5.7", False),
    ],
)
def test_a_patch_that_is_to_go_with_other_releases_is_named(text: str, release: str, stale: bool) -> None:
    named = gaps.outdated([Patch("a.patch", "t", "w", "u", text)], release)
    assert named == (["a.patch"] if stale else [])


def test_a_port_ends_by_what_its_levels_left_open(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = shelf.directory / "manifest.toml"
    text = manifest.read_text().replace('title = "The route"\n', 'title = "The route"\ncapabilities = ["mp"]\n')
    manifest.write_text(text + '\n[[capability]]\nid = "mp"\nsummary = "it is"\nsmoke = ["inference"]\n')
    smoked = (level("imports", "passed"), level("inference", "skipped"))
    monkeypatch.setattr(proving, "prove", lambda *_: proving.PortProof(smoked))
    shelf.release("1.0.1", BASE)
    result = report(port.port("1.0.0", "1.0.1", tmp_path / "w", shelf.directory))
    assert result.data["unproved"] == [{"capability": "mp", "missing": ("inference",)}]
    said = "".join(plain(block) for block in result.blocks)
    assert "1 of 2 smoke checks passed, 1 could not be run" in said
    assert "mp          not passed here: inference\n" in said
