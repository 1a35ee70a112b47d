"""Settings for git in the authoring commands, independent of the user's.

A patch must not depend on its author's settings. So git reads only the worktree's own configuration, and each command
line overrules its relevant settings. No hook runs, nothing is signed, and the caller's GIT_* variables are ignored.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from gaudi_patch.errors import Exit, GaudiPatchError

if TYPE_CHECKING:
    import git

_P = ParamSpec("_P")
_R = TypeVar("_R")

#: Settings of the worktree, so that the user's own git follows them too: `git add` in a rebase ignores no file.
OWN = {
    "user.name": "gaudi-patch",
    "user.email": "gaudi-patch@localhost",
    "core.autocrlf": "false",
    "core.eol": "lf",
    "core.safecrlf": "false",
    "core.excludesFile": "/dev/null",
    "core.attributesFile": "/dev/null",
    "core.hooksPath": "/dev/null",
    "core.fileMode": "true",
    "commit.gpgSign": "false",
    "tag.gpgSign": "false",
    "merge.conflictStyle": "diff3",
}

#: Settings for each command run here, whatever the worktree's configuration says.
OVERRULED = {
    **OWN,
    "core.quotePath": "true",
    "core.abbrev": "40",
    "core.fsmonitor": "false",
    "core.untrackedCache": "false",
    "core.whitespace": "",
    "apply.whitespace": "nowarn",
    "color.ui": "false",
    "commit.cleanup": "whitespace",
    "commit.verbose": "false",
    "diff.suppressBlankEmpty": "false",
    "diff.renames": "false",
    "diff.indentHeuristic": "true",
    "diff.orderFile": "/dev/null",
    "diff.relative": "false",
    "diff.ignoreSubmodules": "none",
    "diff.wsErrorHighlight": "none",
    "log.showSignature": "false",
    "merge.renames": "true",
    "rerere.enabled": "false",
    "status.showUntrackedFiles": "all",
    "tag.forceSignAnnotated": "false",
}

#: Three lines of context, full blob ids, no renames, prefixes a/ and b/.
DIFF = [
    *(
        "--patch",
        "--text",
        "--full-index",
        "--no-renames",
        "--no-color",
        "--no-ext-diff",
        "--no-textconv",
        "--unified=3",
    ),
    *("--inter-hunk-context=0", "--src-prefix=a/", "--dst-prefix=b/", "--diff-algorithm=histogram"),
    *("--indent-heuristic", "--no-relative", "-O/dev/null", "--submodule=short", "--ws-error-highlight=none"),
]

_ENVIRONMENT = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_SYSTEM": "/dev/null",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_EDITOR": "true",
}


@contextmanager
def isolated() -> Iterator[None]:
    """Hide the caller's GIT_* variables and the user's and system's configuration within the context."""
    # Only safe.directory is up to the user; git does not read it from a repository's own configuration.
    trusted = subprocess.run(["git", "config", "--get-all", "safe.directory"], capture_output=True, check=False)
    before = {name: value for name, value in os.environ.items() if name.startswith("GIT_")}
    for name in before:
        del os.environ[name]
    os.environ.update(_ENVIRONMENT)
    folders = os.fsdecode(trusted.stdout).splitlines()
    os.environ["GIT_CONFIG_COUNT"] = str(len(folders))
    for number, folder in enumerate(folders):
        os.environ[f"GIT_CONFIG_KEY_{number}"] = "safe.directory"
        os.environ[f"GIT_CONFIG_VALUE_{number}"] = folder
    try:
        yield
    finally:
        for name in [name for name in os.environ if name.startswith("GIT_")]:
            del os.environ[name]
        os.environ.update(before)


def with_own_git(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Run ``function`` `isolated`; turn a failure of git into a message instead of a traceback."""

    @wraps(function)
    def wrapped(*arguments: _P.args, **options: _P.kwargs) -> _R:
        module()
        import git

        with isolated():
            try:
                return function(*arguments, **options)
            except git.GitCommandError as error:
                said = str(error.stderr or error.stdout or error).strip().splitlines()
                command = (
                    " ".join(map(str, error.command)) if isinstance(error.command, list | tuple) else error.command
                )
                raise GaudiPatchError(
                    Exit.ENVIRONMENT,
                    "git-failed",
                    f"git failed ({error.status}): {command:.200}; the patches are unchanged",
                    "see git's output below",
                    details=said[-5:],
                ) from error

    return wrapped


def module() -> None:
    """Import GitPython, which takes 70 ms and needs a git binary; raise ``no-git`` (exit 4) if that fails."""
    try:
        import git  # noqa: F401 - whether it can be imported is the question
    except ImportError as error:  # raised by GitPython itself when there is no git binary
        raise GaudiPatchError(
            Exit.ENVIRONMENT,
            "no-git",
            f"the authoring commands need git: {str(error).splitlines()[0]}",
            "apt install git",
        ) from error


def overrule(repo: git.Repo) -> git.Repo:
    """Use ``OVERRULED`` for every command on ``repo``; return ``repo``."""
    repo.git.set_persistent_git_options(c=[f"{name}={value}" for name, value in OVERRULED.items()])
    return repo
