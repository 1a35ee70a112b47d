"""The target interpreter: which one is meant, and what it says about itself."""

# ruff: noqa: PTH100, PTH112, PTH113, PTH118, PTH120, PTH121
# Why: Path.resolve would follow the link that makes a python a virtual environment's; os.path.abspath does not.

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from gaudi_patch.errors import Exit, GaudiPatchError
from gaudi_patch.inside.sys_path import describe, pythonpath

#: Seconds that an interpreter gets to start; a cold network file system needs some of them.
PROBE_TIMEOUT = 60.0


class Interpreter(NamedTuple):
    """What a normal run of an interpreter would import from.

    ``path`` is its sys.path without the first entry (script or current folder), absolute, in order, with
    PYTHONPATH and the user site where they count.
    """

    executable: Path
    prefix: Path
    version: tuple[int, int]
    cache_tag: str | None
    pycache_prefix: str | None
    path: tuple[str, ...]
    finder_folder: str | None
    frozen: bool
    own: bool


def own_interpreter(package: str, environ: Mapping[str, str]) -> Interpreter:
    """The interpreter that runs this process; no subprocess."""
    return _interpreter(describe(package, environ), sys.executable, own=True)


def is_own(executable: str) -> bool:
    """Whether ``executable`` starts the interpreter, and the environment, that runs this process.

    The same binary is not enough: the pythons of all virtual environments are links to a few binaries. The same
    binary started from the same folder finds the same pyvenv.cfg.
    """
    try:
        return os.path.samefile(executable, sys.executable) and os.path.samefile(
            os.path.dirname(os.path.abspath(executable)), os.path.dirname(os.path.abspath(sys.executable))
        )
    except OSError:
        return False


def ask(executable: str, package: str, environ: Mapping[str, str]) -> Interpreter:
    """What ``executable`` says about itself; raises an environment error when it cannot run."""
    if is_own(executable):
        return own_interpreter(package, environ)
    # Costs 5 ms; most runs do without.
    import subprocess
    from ast import literal_eval  # typer has imported ast

    probe = str(Path(__file__).resolve().parents[1] / "inside" / "sys_path.py")
    # The probe runs in "/", so that nothing here is imported by accident.
    env = dict(environ)
    if env.get("PYTHONPATH"):
        env["PYTHONPATH"] = os.pathsep.join(pythonpath(environ))
    command = [executable, "-I", "-B", "-X", "utf8", probe, package]
    try:
        done = subprocess.run(
            command,
            env=env,
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PROBE_TIMEOUT,
            check=False,
        )
    except OSError as error:
        raise _cannot_run(executable, error.strerror or str(error)) from error
    except subprocess.TimeoutExpired as error:
        raise _cannot_run(executable, f"no answer within {PROBE_TIMEOUT:.0f} s") from error
    # A sitecustomize may print before the probe does.
    lines = done.stdout.decode("ascii", "replace").splitlines()
    try:
        if done.returncode != 0:
            raise ValueError(f"exit status {done.returncode}")
        facts = literal_eval(lines[-1] if lines else "")
        return _interpreter(facts, executable, own=False)
    except (ValueError, KeyError, TypeError, SyntaxError) as error:
        errors = done.stderr.decode("utf-8", "replace").strip().splitlines()
        telling = f"no answer ({error.msg if isinstance(error, SyntaxError) else error})"
        if errors:  # a traceback says at its end what happened; a complaint about -I (Python 2) at its start
            telling = errors[0] if "option" in errors[0].lower() else errors[-1]
        raise _cannot_run(executable, telling) from error


def _interpreter(facts: dict[str, object], asked: str, *, own: bool) -> Interpreter:
    version, path = facts["version"], facts["path"]
    if not isinstance(version, list) or not isinstance(path, list):
        raise TypeError("not the probe's answer")
    return Interpreter(
        executable=Path(str(facts["executable"]) or asked),
        prefix=Path(str(facts["prefix"])),
        version=(int(version[0]), int(version[1])),
        cache_tag=str(facts["cache_tag"]) or None,
        pycache_prefix=str(facts["pycache_prefix"]) or None,
        path=tuple(str(entry) for entry in path),
        finder_folder=str(facts["finder_folder"]) or None,
        frozen=bool(facts["frozen"]),
        own=own,
    )


def _cannot_run(executable: str, why: str) -> GaudiPatchError:
    return GaudiPatchError(
        Exit.ENVIRONMENT,
        "interpreter-failed",
        f"the Python interpreter {executable} cannot be run: {why}",
        "Name a Python 3.8 or newer of the environment that has LMCache with --python, or its site-packages "
        "folder with --path.",
    )


def which(name: str, environ: Mapping[str, str]) -> str | None:
    """The program ``name`` on the PATH of ``environ``."""
    for folder in environ.get("PATH", os.defpath).split(os.pathsep):
        candidate = os.path.join(folder or os.curdir, name)
        if os.path.isfile(candidate) and os.access(candidate, os.X_OK):
            return os.path.abspath(candidate)
    return None


def python_in(prefix: str) -> str | None:
    """The interpreter of an environment folder."""
    for name in ("python", "python3"):
        candidate = os.path.join(prefix, "bin", name)
        if os.path.isfile(candidate):
            return candidate
    return None


def named_python(argument: Path, environ: Mapping[str, str]) -> str:
    """The interpreter meant by ``--python``: a file, an environment folder, or a program on PATH."""
    text = str(argument)
    if os.sep not in text and not os.path.isfile(text):
        found = which(text, environ)
        if found:
            return found
    if os.path.isdir(text):
        found = python_in(text)
        if found:
            return os.path.abspath(found)
        raise GaudiPatchError(
            Exit.USAGE,
            "bad-target",
            f"--python {text}: this folder has no bin/python",
            "Give the interpreter itself, or the folder of a virtual environment.",
        )
    if not os.path.isfile(text):
        raise GaudiPatchError(
            Exit.USAGE,
            "bad-target",
            f"--python {text}: there is no such interpreter",
            "Give the path of an interpreter, such as /opt/venv/bin/python, or a name that is on PATH.",
        )
    # Not resolved: a virtual environment is known by the link's place, not by what it points to.
    return os.path.abspath(text)


def active_environment(environ: Mapping[str, str]) -> tuple[str, str] | None:
    """The variable and the folder of the active virtual or conda environment."""
    for variable in ("VIRTUAL_ENV", "CONDA_PREFIX"):
        prefix = environ.get(variable)
        if prefix:
            return variable, prefix
    return None


def active_python(variable: str, prefix: str) -> str:
    """The interpreter of the active environment; an environment error when it is gone."""
    found = python_in(prefix)
    if found is None:
        raise GaudiPatchError(
            Exit.ENVIRONMENT,
            "interpreter-failed",
            f"the active environment {prefix} ({variable}) has no bin/python",
            f"Deactivate it (unset {variable}), or name another target with --python, --path or --root.",
        )
    return found
