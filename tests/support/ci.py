"""The CI files, read as YAML, and their commands run as the CI system runs them.

Not run: steps that use third-party actions (``uses``), and GitLab's services. ``docker`` is the stand-in of
tests/support/docker_stand_in.py.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.support.container import TIMEOUT, Container

#: How GitHub runs a step without and with ``shell: bash``.
BASH_UNSPECIFIED = ["bash", "-e"]
BASH = ["bash", "--noprofile", "--norc", "-eo", "pipefail"]


def read(file: Path) -> dict[str, Any]:
    """Return a parsed YAML file. GitHub's key ``on`` is a boolean in YAML 1.1."""
    document: dict[str, Any] = yaml.safe_load(file.read_text())
    return document


class StepError(RuntimeError):
    """A step failed; the message holds its command and its output."""


@dataclass
class Runner:
    """Run commands in ``folder`` with a container's wheels and stand-ins, and keep the values that steps pass on."""

    container: Container
    folder: Path
    env: dict[str, str] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)
    outputs: dict[str, dict[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder.mkdir()
        self.container.start("runner")
        self.container.env.pop("PYTHONPATH")  # the variable of Gaudi's images; a runner has none
        self.container.save()
        (self.folder / "temp").mkdir()
        self.env |= {"RUNNER_TEMP": str(self.folder / "temp"), "GITHUB_STEP_SUMMARY": str(self.folder / "summary.md")}

    def shell(self, shell: list[str], script: str, env: Mapping[str, str]) -> str:
        """Run a script to its end and return its output. Raises StepError."""
        file = self.folder / "temp" / "step.sh"
        file.write_text(script)
        done = subprocess.run(
            [*shell, str(file)],
            env={**self.container.env, **self.env, **env},
            cwd=self.folder,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=TIMEOUT,
            check=False,
        )
        if done.returncode:
            raise StepError(f"{script}\nended with {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def step(self, step: Mapping[str, Any]) -> str:
        """Return a step of a GitHub job or composite action."""
        handed = self.folder / "temp" / "output"
        handed.write_text("")
        env = {name: self.interpolate(str(value)) for name, value in step.get("env", {}).items()}
        shell = BASH if step.get("shell") == "bash" else BASH_UNSPECIFIED
        out = self.shell(shell, step["run"], {**env, "GITHUB_OUTPUT": str(handed)})
        if "id" in step:
            self.outputs[step["id"]] = dict(line.split("=", 1) for line in handed.read_text().splitlines())
        return out

    def interpolate(self, text: str) -> str:
        """Expand ``${{ inputs.NAME }}`` and ``${{ steps.ID.outputs.NAME }}``; anything else is an error."""

        def value(match: re.Match[str]) -> str:
            parts = match[1].split(".")
            if parts[0] == "inputs" and len(parts) == 2:
                return self.inputs[parts[1]]
            assert parts[0] == "steps" and parts[2] == "outputs", match[0]
            return self.outputs[parts[1]][parts[3]]

        return re.sub(r"\$\{\{ ([\w.-]+) \}\}", value, text)
