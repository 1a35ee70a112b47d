"""A git worktree with one commit per patch, in the manner of quilt and StGit. Never an installation.

The first commit, tagged ``pristine``, is the wheel. Each later commit is a patch, named by a trailer
``Patch: adapter/0.5.6.patch`` in its message. GitPython is imported inside functions: the import takes 70 ms, and
fails on machines without a git binary.
"""

from __future__ import annotations

import os
import re
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from gaudi_patch.authoring.git_settings import DIFF, OWN, overrule
from gaudi_patch.errors import Exit, GaudiPatchError, refused
from gaudi_patch.series import hunks
from gaudi_patch.series.manifest import Manifest, Patch, Series

if TYPE_CHECKING:
    import git

PRISTINE = "pristine"
TRAILER = "Patch: "


class Commit(NamedTuple):
    """One commit of the worktree: its hash, the name of its patch ("" for a new one), its subject and diff."""

    sha: str
    patch: str
    subject: str
    diff: bytes


def create(folder: Path, package: str, wheel: Path) -> git.Repo:
    """Create a repository in ``folder``, which must be empty, with the wheel's Python files as its first commit."""
    import git

    if folder.exists() and any(folder.iterdir()):
        raise GaudiPatchError(
            Exit.USAGE, "not-empty", "is not empty; nothing was changed", "choose a new directory", str(folder)
        )
    _refuse_variables(folder)
    folder.mkdir(parents=True, exist_ok=True)
    git.Git(folder).init("--quiet", "--template=", "--initial-branch=patches")
    repo = overrule(git.Repo(folder, expand_vars=False))
    with repo.config_writer() as writer:
        for key, value in OWN.items():
            writer.set_value(*key.split("."), value)
    exclude = Path(repo.git_dir, "info", "exclude")
    exclude.parent.mkdir(exist_ok=True)
    exclude.write_text("__pycache__/\n")  # caches of a run are not changes
    unpack(repo, package, wheel)
    repo.git.commit("--quiet", "--message", f"{wheel.name}\n\nThe pristine wheel.")
    repo.create_tag(PRISTINE)
    return repo


def unpack(repo: git.Repo, package: str, wheel: Path) -> None:
    """Replace the content of the worktree and the index with the Python files of ``wheel``."""
    root = Path(repo.working_dir)
    if repo.git.ls_files():
        repo.git.rm("-r", "--quiet", ".")
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.startswith(f"{package}/") and name.endswith(".py"):
                target = root / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(archive.read(name))
    repo.git.add("--all", "--force", "--", package)


def open_repo(folder: Path) -> git.Repo:
    """Open a worktree created by `dev edit` or `dev port` in ``folder``."""
    import git

    _refuse_variables(folder)
    try:
        repo = overrule(git.Repo(folder, expand_vars=False))
        repo.commit(PRISTINE)
    except (git.InvalidGitRepositoryError, git.NoSuchPathError, git.BadName, ValueError) as error:
        hint = "create one with `gaudi-patch dev edit VERSION`"
        raise GaudiPatchError(
            Exit.USAGE, "no-worktree", "is not a worktree of `dev edit`", hint, str(folder)
        ) from error
    return repo


def _refuse_variables(folder: Path) -> None:
    """Refuse a path in which GitPython would expand a variable (git/cmd.py): git would run elsewhere."""
    path = str(folder.absolute())
    if os.path.expandvars(path) != path:
        what = "the git library would expand a variable in this path; nothing was changed"
        raise GaudiPatchError(Exit.USAGE, "bad-directory", what, "choose a directory without $", path)


def commit_patch(repo: git.Repo, manifest: Manifest, name: str) -> None:
    """Apply one patch to the worktree, placing hunks by exact context, and commit it."""
    from gaudi_patch.series import diff

    root = Path(repo.working_dir)
    for change in diff.parse(manifest.read_patch(name), name):
        target = root / change.path
        before = target.read_bytes() if target.exists() else b""
        try:
            after = hunks.apply(before, change.hunks, allow_offset=True)
        except hunks.HunkMismatch as error:
            raise refused(
                "does-not-apply", f"{name}: {change.path}: {error}", file=str(root), line=error.hunk.line
            ) from error
        if change.kind is diff.Kind.DELETE:
            target.unlink()
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(after)
    repo.git.add("--all", "--force", "--", manifest.package)
    repo.git.commit("--quiet", "--message", message(manifest.patches[name]))


def message(patch: Patch) -> str:
    """Return a commit message: the patch's title, the reason as body, and the trailers, the last with its name."""
    trailers = f"Upstream: {patch.upstream}\nRemove-when: {patch.remove_when}\n{TRAILER}{patch.name}\n"
    return f"{patch.title}\n\n{patch.why}\n\n{trailers}"


def trailer(text: str) -> str:
    """Return the patch name in a commit message; "" if there is none."""
    named = [line[len(TRAILER) :].strip() for line in text.splitlines() if line.startswith(TRAILER)]
    return named[-1] if named else ""


_REASONS = re.compile(
    r"([^\n]+)\n+(.+?)\n+Upstream: ([^\n]+)\nRemove-when: ([^\n]+)\n",
    re.DOTALL,
)


def described(text: str, name: str) -> Patch | None:
    """Parse the description of patch ``name`` in a commit message; return None if a part is missing."""
    parts = _REASONS.match(text)
    if parts is None:
        return None
    title, why, upstream, remove_when = (" ".join(part.split()) for part in parts.groups())
    return Patch(name, title, why, upstream, remove_when)


def commits(repo: git.Repo) -> list[Commit]:
    """Return the patches of the worktree in order, with their diffs in the stored form."""
    if repo.is_dirty(untracked_files=True):
        raise refused(
            "uncommitted",
            "has uncommitted changes",
            "commit them, or amend the commit of the patch that they belong to",
            str(repo.working_dir),
        )
    commits = []
    for commit in reversed(list(repo.iter_commits(f"{PRISTINE}..HEAD"))):
        if len(commit.parents) != 1:
            raise refused(
                "merge", f"{commit.hexsha[:10]} is a merge: a patch has one parent", file=str(repo.working_dir)
            )
        text = str(commit.message)
        commits.append(Commit(commit.hexsha, trailer(text), text.splitlines()[0], diff_of(repo, commit.hexsha)))
    return commits


def diff_of(repo: git.Repo, sha: str) -> bytes:
    """Return one commit as a patch in the stored form."""
    return bytes(
        repo.git.diff_tree(*DIFF, "--no-commit-id", sha, stdout_as_string=False, strip_newline_in_stdout=False)
    )


def staged_diff(repo: git.Repo) -> bytes:
    """Return the difference between HEAD and the index in the stored form."""
    return bytes(repo.git.diff(*DIFF, "--cached", stdout_as_string=False, strip_newline_in_stdout=False))


def lay(repo: git.Repo, manifest: Manifest, series: Series) -> None:
    """Make one commit per patch of ``series``."""
    for name in series.patches:
        commit_patch(repo, manifest, name)


def same_text(text: bytes, other: bytes) -> bool:
    """Return whether two patches make the same change in the same context, ignoring line numbers and blob ids."""
    return _bare(text) == _bare(other)


def _bare(patch: bytes) -> list[bytes]:
    def bare(line: bytes) -> bytes:
        if line.startswith(b"@@ "):
            return b"@@"
        return b"index" if line.startswith(b"index ") else line

    return [bare(line) for line in patch.split(b"\n")]
