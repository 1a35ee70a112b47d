"""Start scripts that need PyTorch and an active device, from tests that have neither."""

from __future__ import annotations

import ast
import json
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gaudi_patch
from tests.support.environments import clean_environment

HERE = Path(__file__).parent
REPOSITORY = Path(gaudi_patch.__file__).parents[1]
EMULATOR = REPOSITORY / "gaudi_patch" / "emulator"


def run_python(
    python: Path,
    *arguments: str | Path,
    env: Mapping[str, str] | None = None,
    timeout: float = 300,
    importable: bool = True,
    stdin: str | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run an interpreter with PyTorch; ``importable`` puts gaudi_patch on its path."""
    environment = clean_environment()
    if importable:
        environment["PYTHONPATH"] = str(REPOSITORY)
    return subprocess.run(
        [str(python), "-B", *map(str, arguments)],
        capture_output=True,
        text=True,
        input=stdin,
        timeout=timeout,
        env=environment | dict(env or {}),
        check=False,
    )


def run_script(
    python: Path,
    script: str,
    *arguments: str,
    env: Mapping[str, str] | None = None,
    timeout: float = 300,
    stdin: str | None = None,
) -> Any:
    """Run a script of this directory and return its report; a script that dies fails the test with its output."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        done = run_python(python, HERE / "scripts" / script, report, *arguments, env=env, timeout=timeout, stdin=stdin)
        if done.returncode or not report.exists():
            output = f"{done.stdout[-4000:]}\n{done.stderr[-8000:]}"
            raise AssertionError(f"{script} {' '.join(arguments)} ended with {done.returncode}\n{output}")
        return json.loads(report.read_text())


class ForkServer:
    """Run short programs with PyTorch, each in a fork of one process that has imported it (``fork_server.py``)."""

    def __init__(self, python: Path) -> None:
        self._process = subprocess.Popen(
            [str(python), "-B", str(HERE / "scripts" / "fork_server.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=clean_environment(),
        )

    def run(self, program: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run a program as ``python -c`` does, with gaudi_patch importable, in a clean environment plus ``env``."""
        assert self._process.stdin
        assert self._process.stdout
        environment = clean_environment() | dict(env or {})
        request = {"program": program, "environment": environment, "path": [str(REPOSITORY)]}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        return subprocess.CompletedProcess(program, answer["returncode"], answer["stdout"], answer["stderr"])

    def close(self) -> None:
        """End the process."""
        self._process.communicate(timeout=60)


def decorated(paths: list[Path], decorators: set[str]) -> list[str]:
    """Return the names of the functions with one of ``decorators``, without importing the files."""
    return [name for path in sorted(paths) for name, *_ in decorator_arguments(path, decorators)]


def decorator_arguments(path: Path, decorators: set[str]) -> list[tuple[str, list[Any], dict[str, Any]]]:
    """For a file's decorated functions, return name and the decorator's positional and keyword arguments."""
    found = []
    for node in ast.parse(path.read_text()).body:
        for decorator in node.decorator_list if isinstance(node, ast.FunctionDef) else []:
            call = decorator if isinstance(decorator, ast.Call) else None
            if ast.unparse(call.func if call else decorator) not in decorators:
                continue
            positional = [ast.literal_eval(argument) for argument in call.args] if call else []
            keywords = {k.arg or "": ast.literal_eval(k.value) for k in call.keywords} if call else {}
            found.append((node.name, positional, keywords))
    return found
