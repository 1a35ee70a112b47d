"""Suggested command lines: each repeats the target and the manifest of this run, quoted for the shell."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from gaudi_patch.target.installation import Target

#: Commands that are about the manifest alone.
WITHOUT_TARGET = frozenset({"dev", "list", "show"})


def command_line(verb: str, *arguments: str, target: Target, manifest: Path | None = None) -> str:
    """Return ``gaudi-patch VERB ARGUMENTS`` for the same target, to paste into a shell in any directory.

    ``manifest`` is the directory given with --manifest, None for the built-in one. Paths become absolute; an
    interpreter that is looked up on PATH stays a name.
    """
    words = ["gaudi-patch", *verb.split(), *arguments]
    if words[1] in WITHOUT_TARGET:
        target = Target()
    if target.python is not None:
        named = os.sep not in str(target.python)
        words += ["--python", str(target.python) if named else str(target.python.absolute())]
    for option, path in (("--path", target.path), ("--root", target.root), ("--manifest", manifest)):
        if path is not None:
            words += [option, str(path.absolute())]
    return shlex.join(words)


def pip_line(python: Path | None, *words: str) -> str:
    """Return ``pip WORDS`` for the interpreter ``python``, or for pip's own if it is None, quoted for the shell."""
    return shlex.join(["pip", *(["--python", str(python)] if python is not None else []), *words])


def option(name: str, path: str) -> str:
    """Return ``NAME PATH``, quoted for the shell."""
    return shlex.join([name, path])


def reinstall_line(release: str, python: Path | None, site: Path) -> str:
    """Return the pip command line that installs ``release`` again without its dependencies, quoted for the shell.

    ``python`` is the target's interpreter; if it is None, the files in ``site`` are replaced.
    """
    if python is None:
        # The only form that replaces an existing package without its interpreter.
        return pip_line(None, "install", "--upgrade", "--no-deps", "--target", str(site), release)
    return pip_line(python, "install", "--force-reinstall", "--no-deps", release)
