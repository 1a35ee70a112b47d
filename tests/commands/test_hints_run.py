"""The commands that doctor, smoke, wheel, requirements, recipe, dev, verify and others print are run as printed.

Each situation is real, in its own environment. The line is pasted into a shell in another directory, while the
environment is still in that state, and must achieve what the text promises. If a line would need PyTorch to succeed,
it is run without the smoke checks, which has the same effect as a missing PyTorch.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import venv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import minisign
import pip
import pytest

from gaudi_patch.commands import smoke as smoke_command
from gaudi_patch.smoke.checks import Proof
from gaudi_patch.smoke.outcome import LevelResult
from gaudi_patch.target.installation import Target
from tests.support import tiny
from tests.support.cli import Done, environment, gaudi_patch
from tests.support.fake_wheel import fake_wheel, metadata
from tests.support.tiny import Tiny
from tests.verify.servers import Behaviour, serving

PROGRAM = Path(sys.executable).with_name("gaudi-patch")
PROBES = Path(smoke_command.__file__).parents[1] / "smoke/probes"
#: A shell would split this if it were not quoted.
AWKWARD = "an $odd 'name'; false"


@dataclass(frozen=True)
class World:
    """A virtual environment with a tiny LMCache and pip, wheels next to it, and the arguments of its commands."""

    folder: Path
    target: Tiny

    @property
    def python(self) -> Path:
        return self.folder / "venv/bin/python"

    @property
    def manifest(self) -> Path:
        return self.target.manifest.directory

    @property
    def named(self) -> tuple[str, ...]:
        return ("--python", str(self.python), "--manifest", str(self.manifest))

    def paste(self, line: str, **env: str) -> Done:
        """Run a printed line in a shell in another directory; pip finds the wheels here instead of on an index."""
        elsewhere = self.folder / "elsewhere"
        elsewhere.mkdir(exist_ok=True)
        offline = {
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": (self.folder / "wheels").as_uri(),
            "PIP_CONFIG_FILE": os.devnull,
        }
        path = f"{PROGRAM.parent}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            ["/bin/bash", "-c", line],
            capture_output=True, text=True, env=environment(PATH=path, **offline, **env), cwd=elsewhere, timeout=300,
            check=False,
        )  # fmt: skip
        assert done.returncode not in (2, 70, 126, 127), f"{line}\n{done.stdout}{done.stderr}"
        return Done(done.returncode, done.stdout, done.stderr)

    def reaches(self, line: str, **env: str) -> Done:
        done = self.paste(line, **env)
        assert done.code == 0, f"{line}\n{done.out}{done.err}"
        return done

    def package(self, name: str, version: str, requires: str = "") -> None:
        """Install a distribution's metadata, and nothing else of it."""
        info = self.target.site / f"{name}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_bytes(metadata(version, name, requires))

    def state(self) -> str:
        return str(gaudi_patch("check", *self.named, "--json").json["data"]["state"])

    def findings(self) -> dict[str, Any]:
        found = gaudi_patch("doctor", *self.named, "--json").json["data"]["findings"]
        return {one["id"]: one for one in found}


@pytest.fixture
def world(tmp_path: Path) -> World:
    folder = tmp_path / AWKWARD
    venv.create(folder / "venv", with_pip=False, symlinks=True)
    (site,) = (folder / "venv/lib").glob("python*/site-packages")
    made = tiny.make(folder)
    for path in made.site.iterdir():
        path.rename(site / path.name)
    (site / "pip").symlink_to(Path(pip.__file__).parent)
    return World(folder, Tiny(site.resolve(), made.manifest))


def commands(value: object) -> Iterator[str]:
    """Yield gaudi-patch's command lines in a document or a text: in backticks, or as a whole line."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from commands(item)
    elif isinstance(value, str):
        yield from re.findall(r"`(gaudi-patch [^`]*)`", value)
        yield from re.findall(r"^(?:next: )?(gaudi-patch .*)$", value, flags=re.MULTILINE)


def only(value: object, verb: str) -> str:
    """Return the only command line of ``verb`` in the output, however often it appears."""
    (line,) = {line for line in commands(value) if shlex.split(line)[1] == verb}
    return line


def listed(world: World, line: str) -> None:
    """Assert that the line lists the releases of the given manifest."""
    done = world.reaches(f"{line} --json")
    assert [row["id"] for row in done.json["data"]["series"]] == ["0.5.6"], line


# doctor


def test_the_fix_of_doctor_patches_the_environment_that_it_looked_at(world: World) -> None:
    fix = only(world.findings()["patch.state"]["fix"], "apply")
    world.reaches(f"{fix} --no-smoke")
    assert world.findings()["patch.state"]["level"] == "ok"


def test_the_fix_of_doctor_installs_what_lmcache_requires(world: World) -> None:
    """The line is for bash; only missing packages are installed."""
    fake_wheel(world.folder / "wheels", "1.5", {"needed.py": ""}, name="needed")
    info = world.target.dist_info / "METADATA"
    info.write_bytes(metadata("0.5.6", requires="Requires-Dist: needed<2\n"))
    finding = world.findings()["software.requirements"]
    assert "needed" in finding["what"]
    world.reaches(finding["fix"])
    assert world.findings()["software.requirements"]["level"] == "ok"


def test_doctor_names_the_list_of_the_manifest_that_it_was_given(world: World) -> None:
    world.package("vllm_gaudi", "0.26.0", "Requires-Dist: transformers<6,>=5.4\n")
    world.package("transformers", "4.0")
    findings = world.findings()
    for name in ("software.pairing", "software.transformers"):
        listed(world, only(findings[name]["fix"], "list"))


def test_doctor_names_the_list_for_a_release_without_a_series(world: World) -> None:
    old = world.target.dist_info
    (old / "METADATA").write_bytes(metadata("9.9"))
    old.rename(old.with_name("lmcache-9.9.dist-info"))
    listed(world, only(world.findings()["patch.series"]["fix"], "list"))
    tried = only(world.findings()["patch.state"]["fix"], "apply")
    world.reaches(f"{tried} --no-smoke")
    assert world.state() == "patched"


# smoke


def inside(world: World, expression: str) -> str:
    """Return the value of an expression in a probe's module, run by the target's interpreter."""
    script = f"import sys; sys.path.insert(0, {str(PROBES)!r}); import _environment; print({expression})"
    done = subprocess.run([world.python, "-c", script], capture_output=True, text=True, check=True, env=environment())
    return done.stdout


def test_what_a_probe_says_of_an_unpatched_lmcache_patches_that_one(world: World) -> None:
    line = only(inside(world, "_environment.advice()"), "apply")
    world.reaches(f"{line} --manifest {shlex.quote(str(world.manifest))} --no-smoke")
    assert world.state() == "patched"
    assert inside(world, "_environment.advice()").strip() == ""


def test_what_a_probe_says_of_a_missing_dependency_installs_it(world: World) -> None:
    fake_wheel(world.folder / "wheels", "1.5", {"needed.py": ""}, name="needed")
    (world.target.dist_info / "METADATA").write_bytes(metadata("0.5.6", requires="Requires-Dist: needed\n"))
    said = inside(world, "_environment.not_installed('needed')").strip()
    world.reaches(said.split("install everything that is missing, and change nothing else: ")[1])
    assert inside(world, "_environment._missing_distributions()").strip() == "[]"


def test_a_failed_smoke_check_of_an_unpatched_lmcache_names_the_apply_for_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gaudi_patch.smoke import checks

    failed = LevelResult("imports", "failed", "no HPU", 0.1, "none", "lazy")
    monkeypatch.setattr(checks, "run", lambda installation, options: [failed])
    installation = world.target.installation
    proof = checks.prove(replace(installation, target=Target(world.python)), checks.SmokeOptions())
    assert proof.fault is not None
    line = only(proof.fault.hint, "apply")
    world.reaches(f"{line} --manifest {shlex.quote(str(world.manifest))} --no-smoke")
    assert world.state() == "patched"


def test_after_smoke_doctor_looks_at_the_same_environment(world: World) -> None:
    passed = LevelResult("imports", "passed", "fine", 0.1, "emulated", "lazy")
    result = smoke_command.rendered(Proof((passed,), None), Target(world.python))
    text = "\n".join(str(getattr(block, "text", "")) for block in result.blocks)
    done = world.paste(f"{only(text, 'doctor')} --json")
    found = {one["id"]: one for one in done.json["data"]["findings"]}
    assert str(world.target.site) in found["patch.installation"]["what"]


def test_without_an_interpreter_the_way_without_a_proof_is_one_that_works(world: World) -> None:
    root = world.folder / "image"
    (root / "usr/lib").mkdir(parents=True)
    packages = root / "usr/lib/python3/dist-packages"
    world.target.site.rename(world.folder / "moved")
    packages.parent.mkdir()
    (world.folder / "moved").rename(packages)
    given = ("--root", str(root), "--manifest", str(world.manifest))
    done = gaudi_patch("apply", *given, "--require", "imports", "--json")
    assert done.code_of_error == "no-interpreter"
    line = only(done.json["errors"], "apply")
    world.reaches(f"{line} --manifest {shlex.quote(str(world.manifest))}")
    assert gaudi_patch("check", *given, "--json").json["data"]["state"] == "patched"


# wheel, requirements, recipe, size, show


def test_a_release_that_has_no_series_names_the_list_of_the_manifest(world: World) -> None:
    given = ("--manifest", str(world.manifest), "--json")
    for words in (["wheel", "9.9", "--out", "wheels"], ["recipe", "memory", "--lmcache", "9.9"], ["show", "9.9"]):
        done = gaudi_patch(*words, *given, cwd=world.folder)
        assert done.code_of_error == "unknown-version", done
        listed(world, only(done.json["errors"], "list"))
    assert gaudi_patch("recipe", "memory", "--lmcache", "0.5.6", *given).code_of_error == "no-pair"
    for words in (["recipe", "memory", "--lmcache", "0.5.6"], ["show", "no version"]):
        listed(world, only(gaudi_patch(*words, *given).json["errors"], "list"))


def test_what_wheel_names_next_installs_the_patched_wheel(world: World) -> None:
    wheel = next((world.folder / "wheels").glob("*.whl"))
    done = gaudi_patch("wheel", wheel, "--out", world.folder / "out dir", "--manifest", world.manifest)
    (line,) = re.findall("^next: (.*)$", done.out, flags=re.MULTILINE)
    into = world.folder / "into"
    world.reaches(line, PIP_TARGET=str(into), PIP_DISABLE_PIP_VERSION_CHECK="1")
    assert (into / "lmcache/gaudi/kernels.py").read_bytes() == tiny.PATCHED["lmcache/gaudi/kernels.py"]


def test_the_command_of_requirements_installs_what_is_missing(world: World) -> None:
    fake_wheel(world.folder / "wheels", "1.5", {"needed.py": ""}, name="needed")
    (world.target.dist_info / "METADATA").write_bytes(metadata("0.5.6", requires="Requires-Dist: needed\n"))
    asked = ("requirements", "0.5.6", "--python", world.python)
    done = gaudi_patch(*asked, "--output", world.folder / "lists")
    (line,) = (line for line in done.out.splitlines() if " -m pip install " in line)
    world.reaches(line)
    assert gaudi_patch(*asked, "--json").json["data"]["missing"] == []


@pytest.mark.parametrize("words", [["recipe"], ["size"]])
def test_the_next_step_of_a_list_is_no_form_to_fill_in(words: list[str], world: World) -> None:
    line = only(gaudi_patch(*words).out, words[0])
    assert len(world.reaches(line).out.splitlines()) > 5


def test_a_model_of_unknown_shape_is_sent_to_the_list_of_the_known_ones(world: World) -> None:
    done = gaudi_patch("size", "nobody/nothing", "--json")
    assert "meta-llama/Llama-3.1-8B-Instruct" in world.reaches(only(done.json["errors"], "size")).out


# attest


def test_an_attestation_that_is_missing_is_written_by_what_is_printed(world: World) -> None:
    report = world.folder / "report.json"
    line = only(gaudi_patch("attest", report, "--json").json["errors"], "apply")
    active = {"VIRTUAL_ENV": str(world.folder / "venv")}
    world.reaches(f"{line} --manifest {shlex.quote(str(world.manifest))} --no-smoke", **active)
    world.reaches(f"gaudi-patch attest {shlex.quote(str(report))}")


def test_an_attestation_without_a_signature_is_signed_by_what_is_printed(world: World) -> None:
    """The user replaces KEY."""
    pair = minisign.KeyPair.generate()
    (world.folder / "key").write_bytes(bytes(pair.secret_key) + b"\n")
    (world.folder / "key.pub").write_bytes(bytes(pair.public_key) + b"\n")
    report = world.folder / "report.json"
    assert gaudi_patch("apply", *world.named, "--no-smoke", "--report", report).code == 0
    verify = ("attest", report, "--verify-key", world.folder / "key.pub")
    done = gaudi_patch(*verify, "--json")
    assert done.code_of_error == "unsigned"
    line = only(done.json["errors"], "attest")
    world.reaches(re.sub(r"\bKEY\b", lambda _: shlex.quote(str(world.folder / "key")), line))
    assert gaudi_patch(*verify).code == 0


# verify, fleet


@pytest.mark.parametrize("tokens", ["9000", "100"])
def test_verify_with_a_prompt_of_the_wrong_length_names_one_that_fits(tokens: str, world: World) -> None:
    with serving(Behaviour()) as url:
        done = gaudi_patch("verify", "--url", url, "--tokens", tokens, "--json")
        assert done.code_of_error == "usage"
        assert world.reaches(f"{only(done.json['errors'], 'verify')} --json").json["data"]["equal"]


def test_what_verify_names_is_there(world: World) -> None:
    with serving(Behaviour(stores=False)) as url:
        done = gaudi_patch("verify", "--url", url, "--json")
    assert done.code_of_error == "no-hits"
    assert "No hits" in world.reaches(only(done.json["errors"], "guide")).out
    with serving(Behaviour(wrong=True)) as url:
        done = gaudi_patch("verify", "--url", url, "--json")
    assert done.code_of_error == "answers-differ"
    active = {"VIRTUAL_ENV": str(world.folder / "venv")}
    ran = world.paste(f"{only(done.json['errors'], 'smoke')} --json", **active)
    assert {level["level"] for level in ran.json["data"]["levels"]} == {"kernels", "engine"}


def test_each_report_of_a_fleet_has_what_mends_its_host(world: World) -> None:
    (world.target.site / "lmcache/engine.py").write_bytes(tiny.PATCHED["lmcache/engine.py"] or b"")
    report = world.folder / "host.json"
    report.write_text(gaudi_patch("check", *world.named, "--json").out)
    done = gaudi_patch("fleet", report, "--json")
    assert "each host's report" in done.json["errors"][0]["hint"]
    line = only(json.loads(report.read_text())["errors"], "apply")
    world.reaches(f"{line} --no-smoke")
    assert world.state() == "patched"


# dev


def test_dev_edit_names_the_refresh_that_takes_the_edit(world: World) -> None:
    before = {"lmcache/__init__.py": b"", "lmcache/engine.py": b"DEVICE = 'cuda'\n"}
    wheel = fake_wheel(world.folder / "release", "1.0.0", dict(before))
    own = world.folder / "own"
    patch = tiny.patch(before, {"lmcache/engine.py": b"DEVICE = 'hpu'\n"})
    tiny.write_manifest(own, {"1.0.0": {"tiny.patch": patch}}, {"1.0.0": wheel})
    given = ("--manifest", own, "--wheel", wheel)
    done = gaudi_patch("dev", "edit", "1.0.0", "edited", *given, cwd=world.folder)
    (line,) = (one for one in commands(done.out) if " refresh " in one)
    checkout = world.folder / "edited"
    (checkout / "lmcache/engine.py").write_text("DEVICE = 'hpu'  # edited\n")
    git = ["git", "-C", str(checkout), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "commit", "-qa", "--amend", "--no-edit"], check=True, capture_output=True)
    world.reaches(line)
    assert b"# edited" in (own / "tiny.patch").read_bytes()
