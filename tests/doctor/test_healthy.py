"""The doctor says so if nothing is wrong, and also if nothing can be seen."""

from __future__ import annotations

import json
import os
import re
import shlex
from pathlib import Path

import pytest

from gaudi_patch.commands.doctor import rendered
from gaudi_patch.doctor.case import HABANA_VENDOR
from gaudi_patch.doctor.checks import CHECKS
from gaudi_patch.doctor.examine import Examination, examine
from gaudi_patch.doctor.finding import Level
from gaudi_patch.doctor.host import Host
from gaudi_patch.errors import Exit
from gaudi_patch.output.report import Color, Format, plain, show
from gaudi_patch.series.manifest import load
from gaudi_patch.target.search import Target
from tests.doctor.hosts import Gaudi, findings, not_ok
from tests.support.cli import gaudi_patch


def test_a_healthy_gaudi_host_has_nothing_to_complain_about(gaudi: Gaudi) -> None:
    result = gaudi.run()
    assert not_ok(result) == {}
    assert result.exit is Exit.OK
    assert result.errors == []


def test_every_check_answers_once_in_json_whatever_can_be_seen(gaudi: Gaudi) -> None:
    names = [check.id for check in CHECKS]
    assert len(set(names)) == len(names)
    assert [one["id"] for one in gaudi.run(arguments=False).data["findings"]] == names


def test_this_machine_has_no_failure() -> None:
    """Not a Gaudi host: everything that needs one is unknown, which is not a failure."""
    done = gaudi_patch("doctor", "--json")
    levels = {one["id"]: one["level"] for one in done.json["data"]["findings"]}
    assert [name for name, level in levels.items() if level == "failure"] == []
    assert (done.code, done.json["errors"]) == (0, [])
    vendors = [file.read_text().strip() for file in Path("/sys/bus/pci/devices").glob("*/vendor")]
    assert levels["device.cards"] == ("ok" if HABANA_VENDOR in vendors else "unknown")


def test_an_empty_host_is_all_unknown_and_no_failure(tmp_path: Path) -> None:
    """A bare laptop: no PCI bus, no tool, no package, no LMCache."""
    (tmp_path / "site").mkdir()
    (tmp_path / "root").mkdir()
    result = rendered(examine(load(), Target(path=tmp_path / "site"), host=Host(tmp_path / "root", {})))
    assert set(not_ok(result).values()) == {"unknown"}
    assert result.exit is Exit.OK


def test_an_image_is_read_and_nothing_of_it_is_run(gaudi: Gaudi) -> None:
    """Its packages are known; its environment, its devices and LMCache's configuration are not."""
    marker = gaudi.folder / "ran"
    gaudi.prefix.rename(gaudi.root / "venv")
    gaudi.tool("hl-smi", f"touch {marker}")
    python = gaudi.root / "venv/bin/python"
    python.unlink()
    python.write_text(f"#!/bin/sh\ntouch {marker}\n")
    python.chmod(0o755)
    result = rendered(examine(gaudi.manifest, Target(root=gaudi.root)))
    found = findings(result)
    assert found["software.habana"]["level"] == "ok"
    assert found["patch.state"]["what"] == "patched, series 0.5.6"
    assert found["software.pairing"]["level"] == "ok"
    assert {one for one, level in not_ok(result).items() if level != "unknown"} == set()
    assert "run doctor in the container" in found["env.lazy-mode"]["what"]
    assert not marker.exists()


def test_nothing_is_left_behind(gaudi: Gaudi) -> None:
    """The disk is measured with a file that is then removed, and the target gets no bytecode."""
    gaudi.run()
    before = sorted(gaudi.folder.rglob("*"))
    gaudi.run()
    assert sorted(gaudi.folder.rglob("*")) == before
    assert not list(gaudi.site.rglob("*.pyc"))


@pytest.mark.parametrize("name", ["config", "python"])
def test_a_file_that_is_not_there_is_a_usage_error(name: str, tmp_path: Path) -> None:
    done = gaudi_patch("doctor", f"--{name}", tmp_path / "nowhere", "--json")
    assert (done.code, done.json["errors"][0]["code"]) == (2, "usage" if name == "config" else "bad-target")


def test_an_interpreter_that_cannot_run_is_a_finding(gaudi: Gaudi) -> None:
    gaudi.python.unlink()
    gaudi.python.write_text("#!/bin/sh\nexit 7\n")
    gaudi.python.chmod(0o755)
    found = findings(gaudi.run())
    assert found["software.interpreter"]["level"] == "failure"
    assert found["config.load"]["level"] == "unknown"


def test_json_tells_what_why_fix_and_source_of_each(gaudi: Gaudi) -> None:
    gaudi.config["use_layerwise"] = True
    result = gaudi.run()
    document = json.loads(result.to_json())
    assert document["data"]["count"]["failure"] == 1
    (error,) = document["errors"]
    assert (error["code"], document["exit_code"]) == ("config.layerwise", 4)
    one = findings(result)["config.layerwise"]
    assert set(one) == {"id", "level", "what", "why", "fix", "source"}
    assert all(one.values())
    assert error["hint"] == one["fix"]
    for each in document["data"]["findings"]:
        assert each["why"], each
        assert each["source"], each


@pytest.mark.parametrize("output", [Format.GITHUB, Format.GITLAB])
def test_a_warning_on_the_page_of_a_ci_service_names_its_check_once(
    output: Format, gaudi: Gaudi, capsys: pytest.CaptureFixture[str]
) -> None:
    gaudi.config.update(chunk_size=200)
    show(gaudi.run(), output, Color.NEVER)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("::warning", "\x1b[1;33m"))]
    assert [line.count("config.chunk-size") for line in lines if "config.chunk-size" in line] == [1]


def test_a_command_named_as_a_source_runs_as_printed(gaudi: Gaudi) -> None:
    sources = [one["source"] for one in findings(gaudi.run()).values()]
    lines = {line for source in sources for line in re.findall("`([^`]*)`", source)}
    named = {line for line in lines if line.startswith("gaudi-patch ")}
    assert len(named) > 2
    # Without quotes, a command would not get the path that works in the reader's shell.
    assert all(source.count("gaudi-patch") == source.count("`gaudi-patch") for source in sources)
    for line in sorted(named):
        words = shlex.split(line)[1:]
        assert gaudi_patch(*words).code == 0, line


def test_the_text_has_the_warning_in_full_and_one_row_for_one_reason(gaudi: Gaudi) -> None:
    """On the command line, in a pipe; failures go to stderr, as in other commands."""
    gaudi.config.update(chunk_size=200, use_layerwise=True)
    gaudi.run()
    done = gaudi_patch(
        "doctor", "--python", gaudi.python, "--config", gaudi.folder / "lmcache.yaml",
        "--manifest", gaudi.folder / "tiny/patches", env={"PYTHONHASHSEED": "0", "PATH": os.defpath},
    )  # fmt: skip
    assert done.code == 4
    assert "warning: config.chunk-size: chunks of 200 tokens" in done.out
    assert "fix:    chunk_size: 256" in done.out
    assert "error: config.layerwise: use_layerwise is True" in done.err
    assert "next: use_layerwise: false" in done.err
    github = gaudi_patch(
        "doctor", "--python", gaudi.python, "--config", gaudi.folder / "lmcache.yaml",
        "--manifest", gaudi.folder / "tiny/patches", "--output-format", "github", env={"PYTHONHASHSEED": "0"},
    )  # fmt: skip
    assert "::error title=gaudi-patch config.layerwise::" in github.out
    assert "::warning title=gaudi-patch config.chunk-size::chunks of 200 tokens" in github.out


def test_what_cannot_be_seen_is_one_line_and_in_full_with_verbose(tmp_path: Path) -> None:
    """As in an image build: no card, no interpreter, no configuration."""
    (tmp_path / "a site").mkdir()
    found = examine(load(), Target(path=tmp_path / "a site"), host=Host(tmp_path, {}))
    count = len(found.of(Level.UNKNOWN))
    text = "".join(plain(block, 200) for block in rendered(found).blocks)
    assert f"unknown: {count} checks could not be made here; --verbose shows which, and why\n" in text
    assert "device.cards" not in text
    (row,) = [line for line in _rows(found, verbose=True) if "device.cards" in line]
    assert "cannot be read" in row
    (row,) = [line for line in _rows(found, verbose=True) if "vllm.use-native" in line]
    assert "vllm.connector" in row


def _rows(found: Examination, *, verbose: bool) -> list[str]:
    return "".join(plain(block, 1000) for block in rendered(found, verbose=verbose).blocks).splitlines()


@pytest.mark.parametrize("is_gaudi", [True, False])
def test_an_unpatched_lmcache_is_a_failure_everywhere(is_gaudi: bool, gaudi: Gaudi) -> None:
    """It crashes or overwrites blocks on Gaudi, and images for Gaudi are built on hosts without cards."""
    gaudi.target.rollback()
    if not is_gaudi:
        gaudi.package("habana_torch_plugin", None)
        gaudi.remove("/sys/bus/pci/devices")
    result = gaudi.run()
    assert findings(result)["patch.state"]["level"] == "failure"
    assert result.exit is Exit.ENVIRONMENT


def test_the_fix_of_an_unpatched_lmcache_works_as_it_is_printed(gaudi: Gaudi) -> None:
    """In a directory with a space, for a non-default interpreter and manifest."""
    gaudi.target.rollback()
    fix = findings(gaudi.run())["patch.state"]["fix"]
    words = shlex.split(fix)
    assert words[:2] == ["gaudi-patch", "apply"]
    done = gaudi_patch(*words[1:], "--no-smoke")
    assert done.code == 0, done.err
    assert findings(gaudi.run())["patch.state"]["level"] == "ok"


@pytest.mark.parametrize(
    ("kv", "why"),
    [
        ({}, "vLLM loads no KV connector unless one is configured"),
        ({"kv_connector": "NixlConnector"}, "calls only the connector that is named there"),
        ({"kv_connector": "MultiConnector"}, "calls only the connector that is named there"),
    ],
)
def test_each_finding_about_the_connector_has_its_own_why(kv: dict[str, str], why: str, gaudi: Gaudi) -> None:
    gaudi.kv = dict(kv)
    assert why in findings(gaudi.run())["vllm.connector"]["why"]
