"""The target's interpreter: which one is meant, and its properties."""

# ruff: noqa: PTH100, PTH113, PTH116, PTH118, PTH120, PTH121, PTH208
# Why: Path.resolve would follow the link that makes an interpreter a virtual environment's; os.path.abspath does not.

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from gaudi_patch.errors import Exit, GaudiPatchError
from gaudi_patch.inside.sys_path import describe, pythonpath
from gaudi_patch.opening import is_there
from gaudi_patch.target.refusals import bad_target, cannot_run, is_named_directory, is_named_file

if TYPE_CHECKING:
    from gaudi_patch.inside.sys_path import Facts

#: Seconds for an interpreter to start and answer. It needs 0.03 on a local disk, and many times that on a cold network
#: file system, or where an image is built for another processor.
PROBE_TIMEOUT = 60.0
#: Isolated from PYTHONPATH, the user site and the current directory; UTF-8 for paths.
_FLAGS = ("-I", "-B", "-X", "utf8")
#: Far more entries than any sys.path has; each is examined.
_MAX_ENTRIES = 10_000


class Interpreter(NamedTuple):
    """The directories from which a normal run of an interpreter imports.

    ``path`` is its sys.path without the first entry (script or current directory), absolute, in order, with
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
    """Return the interpreter that runs this process, without a subprocess."""
    return _interpreter(describe(package, environ), sys.executable, own=True)


def is_own(executable: str) -> bool:
    """Return whether ``executable`` is the interpreter, in the same environment, that runs this process.

    The same binary is not enough, because the interpreters of virtual environments are links to a few binaries. The
    same binary in the same directory finds the same pyvenv.cfg.
    """
    try:
        return os.path.samefile(executable, sys.executable) and os.path.samefile(
            os.path.dirname(os.path.abspath(executable)), os.path.dirname(os.path.abspath(sys.executable))
        )
    except OSError:
        return False


def identify(executable: str, package: str, environ: Mapping[str, str]) -> Interpreter:
    """Ask ``executable`` about itself; raise ``interpreter-failed`` if it cannot run or gives no answer."""
    if is_own(executable):
        return own_interpreter(package, environ)
    # Takes 5 ms; most runs do not need it.
    from gaudi_patch.target.ask import AskError, ask

    if waited_for := _blocking_start_file(executable):
        raise cannot_run(executable, f"it would block at start-up on {waited_for}, a FIFO or a device")
    env = dict(environ)
    if env.get("PYTHONPATH"):  # its relative entries are relative to this directory, but the script runs in "/"
        env["PYTHONPATH"] = os.pathsep.join(pythonpath(environ))
    try:
        answer = ask(executable, "sys_path.py", package, timeout=PROBE_TIMEOUT, environ=env, flags=_FLAGS)
        return _interpreter(_checked(answer), executable, own=False)
    except AskError as error:
        raise cannot_run(executable, str(error)) from error


def _blocking_start_file(executable: str) -> str:
    """Return a FIFO or device among the files that a virtual environment's Python reads at its start; "" if none."""
    prefix = os.path.dirname(os.path.dirname(executable))
    configuration = os.path.join(prefix, "pyvenv.cfg")
    try:
        if not is_there(Path(configuration)):
            return ""
    except OSError:  # it may be there, and what is beside it may block
        pass
    candidates = [configuration]
    for library in _names(os.path.join(prefix, "lib")):
        if library.startswith("python3"):
            site = os.path.join(prefix, "lib", library, "site-packages")
            candidates += [os.path.join(site, name) for name in _names(site) if _is_start_file(name)]
    return next((path for path in candidates if _blocks(path)), "")


def _blocks(path: str) -> bool:
    try:
        info = os.stat(path)
    except OSError:  # Python is not held up for good all the same: an answer has a time limit
        return False
    # A link to /dev/null is a common way to disable a .pth file.
    return stat.S_ISFIFO(info.st_mode) or (stat.S_ISCHR(info.st_mode) and not os.path.samefile(path, os.devnull))


def _names(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def _is_start_file(name: str) -> bool:
    return name.endswith(".pth") or name in ("sitecustomize.py", "usercustomize.py")


def _checked(answer: object) -> Facts:
    """Validate an interpreter's answer about itself, which comes from the target and is not trusted."""
    from gaudi_patch.target.ask import AskError, Fields, Problem

    fields = Fields(answer)
    version = [part for part in fields.items("version") if type(part) is int and 0 <= part < 1000]
    path, tag = fields.paths("path"), fields.text("cache_tag")
    if len(version) != 2 or len(fields.items("version")) != 2:
        raise AskError(Problem.INVALID, "its answer.version is not a version of Python")
    if len(path) > _MAX_ENTRIES:
        raise AskError(Problem.INVALID, f"its answer.path has {len(path):,} entries")
    if not re.fullmatch(r"[\w-]{0,64}", tag, re.ASCII):
        raise AskError(Problem.INVALID, "its answer.cache_tag is not a tag")
    return {
        "executable": fields.path("executable"),
        "prefix": fields.path("prefix"),
        "version": version,
        "cache_tag": tag,
        "pycache_prefix": fields.path("pycache_prefix"),
        "path": list(path),
        "finder_folder": fields.path("finder_folder"),
        "frozen": fields.flag("frozen"),
    }


def _interpreter(facts: Facts, asked: str, *, own: bool) -> Interpreter:
    return Interpreter(
        executable=Path(facts["executable"] or asked),
        prefix=Path(facts["prefix"]),
        version=(facts["version"][0], facts["version"][1]),
        cache_tag=facts["cache_tag"] or None,
        pycache_prefix=facts["pycache_prefix"] or None,
        path=tuple(facts["path"]),
        finder_folder=facts["finder_folder"] or None,
        frozen=facts["frozen"],
        own=own,
    )


def which(name: str, environ: Mapping[str, str]) -> str | None:
    """Return the program ``name`` on the PATH of ``environ``."""
    for folder in environ.get("PATH", os.defpath).split(os.pathsep):
        candidate = os.path.join(folder or os.curdir, name)
        # As a shell looks: what cannot be seen on one directory of PATH is looked for on the next.
        if os.path.isfile(candidate) and os.access(candidate, os.X_OK):
            return os.path.abspath(candidate)
    return None


def python_in(prefix: str) -> str | None:
    """Return the interpreter of an environment directory."""
    for name in ("python", "python3"):
        candidate = os.path.join(prefix, "bin", name)
        if os.path.isfile(candidate):
            return candidate
    return None


def named_python(argument: Path, environ: Mapping[str, str]) -> str:
    """Return the interpreter meant by ``--python``: a file, an environment directory, or a program on PATH."""
    text = str(argument)
    if os.sep not in text and not is_named_file(argument):
        executable = which(text, environ)
        if executable:
            return executable
    if is_named_directory(argument):
        executable = python_in(text)
        if executable:
            return os.path.abspath(executable)
        raise bad_target(
            f"--python {text}: this directory has no bin/python",
            "give the interpreter itself, or the directory of a virtual environment",
        )
    if not is_named_file(argument):
        raise bad_target(
            f"--python {text}: no such interpreter",
            "give the path of an interpreter, such as /opt/venv/bin/python, or a name on PATH",
        )
    # Not resolved: the place of the link identifies a virtual environment, not its target.
    return os.path.abspath(text)


def active_environment(environ: Mapping[str, str]) -> tuple[str, str] | None:
    """Return the variable and the directory of the active virtual or conda environment."""
    for variable in ("VIRTUAL_ENV", "CONDA_PREFIX"):
        prefix = environ.get(variable)
        if prefix:
            return variable, prefix
    return None


def active_python(variable: str, prefix: str) -> str:
    """Return the interpreter of the active environment; raise an environment error if it is missing."""
    interpreter = python_in(prefix)
    if interpreter is None:
        raise GaudiPatchError(
            Exit.ENVIRONMENT,
            "interpreter-failed",
            f"the active environment {prefix} ({variable}) has no bin/python",
            f"deactivate it (unset {variable}), or choose another target with --python, --path or --root",
        )
    return interpreter
