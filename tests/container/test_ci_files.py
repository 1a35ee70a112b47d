"""Every `run` of the GitHub workflow and of the action, and every line of the GitLab job, executed.

The stand-ins are described in tests/support/container.py, tests/support/ci.py and tests/support/docker_stand_in.py.
"""

from __future__ import annotations

import json
import re
import shutil
from typing import Any

import pytest

from tests.container.conftest import FILES
from tests.support import ci
from tests.support.container import Container
from tests.support.wheelhouse import LMCACHE, REPOSITORY

WORKFLOW = ci.read(FILES / "github-workflow.yml")
GITLAB = ci.read(FILES / "gitlab-ci.yml")
JOB, WHEEL_JOB = GITLAB["gaudi-image"], GITLAB["gaudi-patch-wheel"]
ACTION = ci.read(FILES / "action" / "action.yml")
#: This checkout replaces the reader's mirror of gaudi-patch.
SOURCE = {"GAUDI_PATCH_SOURCE": str(REPOSITORY)}
PLACEHOLDER = "git+https://git.example.com/platform/gaudi-patch@COMMIT"


def stays(text: str, container: Container) -> str:
    """Check that the attestation kept by a job names the build."""
    document: dict[str, Any] = json.loads(text)
    assert document["package"]["version"] == LMCACHE
    assert document["package"]["root"].startswith(str(container.root))
    return str(document["outcome"])


@pytest.mark.wheels
@pytest.mark.torch
def test_the_workflow_patches_a_plain_environment_on_a_runner_without_a_gaudi(container: Container) -> None:
    runner = ci.Runner(container, container.root / "checkout", env={**WORKFLOW["env"], **SOURCE})
    steps = [one for one in WORKFLOW["jobs"]["patch"]["steps"] if "run" in one]
    assert len(steps) == 2
    printed = [runner.step(one) for one in steps]
    assert "verified from disk" in printed[-1]
    assert "patched: every file has the hash" in printed[-1]
    assert "gaudi-patch apply: exit 0" in (runner.folder / "summary.md").read_text()


@pytest.mark.wheels
@pytest.mark.torch
def test_the_workflow_builds_checks_and_attests_the_image(shared_container: Container) -> None:
    container = shared_container
    runner = ci.Runner(container, container.root / "workflow", env={**WORKFLOW["env"], **SOURCE, "SMOKE": "imports"})
    shutil.copy(FILES / "Dockerfile.pip", runner.folder)
    for step in WORKFLOW["jobs"]["image"]["steps"]:
        if "run" in step:
            runner.step(step)
    assert (container.root / "image").read_text().split() == [WORKFLOW["env"]["IMAGE"], WORKFLOW["env"]["BASE"]]
    assert stays((runner.folder / "gaudi-patch.json").read_text(), container) == "applied"
    (upload,) = [one["with"] for one in WORKFLOW["jobs"]["image"]["steps"] if "upload" in one.get("uses", "")]
    assert (runner.folder / upload["path"]).is_file()

    # The same check in a container whose file was edited afterwards.
    (engine,) = container.base.glob("lib/*/site-packages/lmcache/gaudi/__init__.py")
    pristine = engine.read_text()
    engine.write_text(f"{pristine}# edited\n")
    (check,) = [one for one in WORKFLOW["jobs"]["image"]["steps"] if "--against" in one.get("run", "")]
    with pytest.raises(ci.StepError, match=r"ended with 1\s[^$]*lmcache/gaudi/__init__\.py"):
        runner.step(check)
    engine.write_text(pristine)


@pytest.mark.wheels
@pytest.mark.torch
def test_the_gitlab_job_builds_checks_attests_and_pushes_the_image(shared_container: Container) -> None:
    container = shared_container
    given = {
        "CI_REGISTRY": "registry.example", "CI_REGISTRY_IMAGE": "registry.example/group/project",
        "CI_REGISTRY_USER": "user", "CI_REGISTRY_PASSWORD": "secret", "CI_COMMIT_SHORT_SHA": "0123abcd",
    }  # fmt: skip
    variables = {
        name: re.sub(r"\$(CI_\w+)", lambda one: given[one[1]], text) for name, text in JOB["variables"].items()
    }
    runner = ci.Runner(container, container.root / "gitlab", env={**given, **variables, **SOURCE, "SMOKE": "imports"})
    shutil.copy(FILES / "Dockerfile.pip", runner.folder)
    assert JOB["needs"] == ["gaudi-patch-wheel"]
    runner.shell(["sh", "-e"], "\n".join(WHEEL_JOB["script"]), {})
    (handed_on,) = WHEEL_JOB["artifacts"]["paths"]
    assert len(list((runner.folder / handed_on).glob("gaudi_patch-*.whl"))) == 1
    runner.shell(["sh", "-e"], "\n".join(JOB["script"]), {})
    image = "registry.example/group/project/vllm-gaudi-lmcache:0123abcd"
    assert (container.root / "pushed").read_text() == image
    assert (container.root / "login").read_text() == "user secret registry.example"
    (kept,) = JOB["artifacts"]["paths"]
    assert stays((runner.folder / kept).read_text(), container) == "applied"


@pytest.mark.wheels
@pytest.mark.torch
def test_the_action_installs_applies_and_checks(container: Container, sha256: str) -> None:
    runner = ci.Runner(container, container.root / "checkout")
    runner.inputs = {name: str(one.get("default", "")) for name, one in ACTION["inputs"].items()}
    runner.inputs |= {"python": str(container.base / "bin" / "python3"), "smoke": "imports", "require": "imports"}
    (wheel,) = container.wheels.glob("gaudi_patch-*.whl")
    runner.inputs |= {"wheel": str(wheel), "sha256": sha256[::-1]}
    with pytest.raises(ci.StepError, match="computed checksum did NOT match"):
        runner.step(ACTION["runs"]["steps"][0])
    runner.inputs |= {"sha256": sha256}
    install = f"python3 -m pip install --quiet --no-deps lmcache=={LMCACHE}"
    runner.shell(["sh", "-e"], install, {})
    for step in ACTION["runs"]["steps"]:
        runner.step(step)
    kept = runner.interpolate(ACTION["outputs"]["attestation"]["value"])
    document = json.loads((runner.folder / kept).read_text())
    assert (document["outcome"], document["smoke"]["status"]) == ("applied", "passed")

    runner.inputs |= {"smoke": "none"}
    runner.step(ACTION["runs"]["steps"][1])
    assert json.loads((runner.folder / kept).read_text())["outcome"] == "already-applied"

    runner.inputs |= {"attestation": "missing/folder.json"}
    with pytest.raises(ci.StepError, match="ended with 4"):
        runner.step(ACTION["runs"]["steps"][1])


def test_the_files_name_this_release_of_lmcache_and_a_placeholder_of_the_readers_mirror() -> None:
    assert WORKFLOW["env"]["GAUDI_PATCH_SOURCE"] == WHEEL_JOB["variables"]["GAUDI_PATCH_SOURCE"] == PLACEHOLDER
    assert WORKFLOW["env"]["LMCACHE_VERSION"] == JOB["variables"]["LMCACHE_VERSION"] == LMCACHE
    assert ACTION["inputs"]["wheel"]["required"] is True
    for document in (WORKFLOW, GITLAB, ACTION):
        assert not re.search(r"(?:lmcache|gaudi.patch)==\d", json.dumps(document))


def test_no_input_is_pasted_into_a_script() -> None:
    """`${{ }}` inside `run` would run text from a pull request; inputs go through the environment."""
    steps = [*ACTION["runs"]["steps"], *(one for job in WORKFLOW["jobs"].values() for one in job["steps"])]
    assert all("${{" not in step.get("run", "") for step in steps)
    assert WORKFLOW["permissions"] == {"contents": "read"}


def test_only_actions_of_github_itself_are_used_and_by_version() -> None:
    used = [one["uses"] for job in WORKFLOW["jobs"].values() for one in job["steps"] if "uses" in one]
    assert used
    assert all(re.fullmatch(r"actions/[\w-]+@v\d+", one) for one in used)
