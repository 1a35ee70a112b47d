"""A git worktree with one commit a patch, as quilt and StGit users keep them. Never an installation.

The first commit, tagged ``pristine``, is the wheel; each later one is a patch, named by a trailer
``Patch: common/gaudi-runtime.patch`` in its message. GitPython is imported here alone: it costs 70 ms and
fails on machines without a git binary.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from gaudi_patch.errors import Exit, GaudiPatchError, refused
from gaudi_patch.series import hunks
from gaudi_patch.series.manifest import Manifest, Patch, Series

if TYPE_CHECKING:
    import git

PRISTINE = "pristine"
TRAILER = "Patch: "


class Commit(NamedTuple):
    """One patch of the worktree: the name its diff is kept under ("" for a new one), its subject, its diff."""

    sha: str
    patch: str
    subject: str
    diff: bytes


def git_module() -> object:
    """GitPython, or what is missing for it."""
    try:
        import git
    except ImportError as error:  # raised by GitPython itself when there is no git binary
        raise GaudiPatchError(
            Exit.ENVIRONMENT,
            "no-git",
            f"the authoring commands need git: {str(error).splitlines()[0]}",
            "apt install git",
        ) from error
    return git


def create(folder: Path, package: str, wheel: Path) -> git.Repo:
    """A new repository in ``folder`` (which must be empty) with the wheel's Python files as its first commit."""
    git_module()
    import git

    if folder.exists() and any(folder.iterdir()):
        raise GaudiPatchError(
            Exit.USAGE, "not-empty", "is not empty; nothing was changed", "name a new folder", str(folder)
        )
    folder.mkdir(parents=True, exist_ok=True)
    repo = git.Repo.init(folder, initial_branch="patches")
    configuration = {"user.name": "gaudi-patch", "user.email": "gaudi-patch@localhost", "core.autocrlf": "false"}
    with repo.config_writer() as writer:
        for key, value in {**configuration, "core.abbrev": "40", "merge.conflictStyle": "diff3"}.items():
            section, name = key.split(".")
            writer.set_value(section, name, value)
    unpack(repo, package, wheel)
    repo.git.commit("--quiet", "--message", f"{wheel.name}\n\nThe pristine wheel.")
    repo.create_tag(PRISTINE)
    return repo


def unpack(repo: git.Repo, package: str, wheel: Path) -> None:
    """Make the worktree, and the index, hold exactly the Python files of ``wheel``."""
    root = Path(repo.working_dir)
    if repo.git.ls_files():
        repo.git.rm("-r", "--quiet", ".")
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.startswith(f"{package}/") and name.endswith(".py"):
                target = root / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(archive.read(name))
    repo.git.add("--all")


def open_repo(folder: Path) -> git.Repo:
    """The worktree that `dev edit` or `dev port` made in ``folder``."""
    git_module()
    import git

    try:
        repo = git.Repo(folder)
        repo.commit(PRISTINE)
    except (git.InvalidGitRepositoryError, git.NoSuchPathError, git.BadName, ValueError) as error:
        hint = "make one with `gaudi-patch dev edit VERSION`"
        raise GaudiPatchError(Exit.USAGE, "no-worktree", "is no worktree of `dev edit`", hint, str(folder)) from error
    return repo


def commit_patch(repo: git.Repo, manifest: Manifest, name: str) -> None:
    """Apply one patch to the worktree, hunks found by exact context, and commit it."""
    from gaudi_patch.series import diff

    root = Path(repo.working_dir)
    for one in diff.parse((manifest.directory / name).read_bytes(), name):
        target = root / one.path
        before = target.read_bytes() if target.exists() else b""
        try:
            after = hunks.apply(before, one.hunks, allow_offset=True)
        except hunks.HunkMismatch as error:
            raise refused(
                "does-not-apply", f"{name}: {one.path}: {error}", file=str(root), line=error.hunk.line
            ) from error
        if one.kind is diff.Kind.DELETE:
            target.unlink()
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(after)
    repo.git.add("--all")
    repo.git.commit("--quiet", "--message", message(manifest.patches[name]))


def message(patch: Patch) -> str:
    """Subject from the patch's file name, its reasons in the body, and the trailer that names it."""
    subject = Path(patch.name).stem.replace("-", " ").capitalize()
    trailers = f"Upstream: {patch.upstream}\nRemove-when: {patch.remove_when}\n{TRAILER}{patch.name}\n"
    return f"{subject}\n\n{patch.why}\n\n{trailers}"


def trailer(text: str) -> str:
    """The patch that a commit message names; "" for none."""
    named = [line[len(TRAILER) :].strip() for line in text.splitlines() if line.startswith(TRAILER)]
    return named[-1] if named else ""


_REASONS = re.compile(r"[^\n]*\n+(?P<why>.+?)\n+Upstream: ([^\n]+)\nRemove-when: ([^\n]+)\n", re.DOTALL)


def reasons(text: str) -> tuple[str, str, str] | None:
    """Why, upstream and remove_when from a commit message as ``message`` writes it; None where one is missing."""
    found = _REASONS.match(text)
    if found is None:
        return None
    return " ".join(found["why"].split()), found[2].strip(), found[3].strip()


def commits(repo: git.Repo) -> list[Commit]:
    """The patches of the worktree in order, with their diffs in the form that is kept."""
    if repo.is_dirty(untracked_files=True):
        raise refused(
            "uncommitted",
            "has changes that are not committed",
            "commit them, or amend the patch they belong to",
            str(repo.working_dir),
        )
    found = []
    for commit in reversed(list(repo.iter_commits(f"{PRISTINE}..HEAD"))):
        if len(commit.parents) != 1:
            raise refused(
                "merge", f"{commit.hexsha[:10]} is a merge: a patch has one parent", file=str(repo.working_dir)
            )
        text = str(commit.message)
        found.append(Commit(commit.hexsha, trailer(text), text.splitlines()[0], diff_of(repo, commit.hexsha)))
    return found


#: Three lines of context, full blob ids, no renames, whatever the user's git is set to.
FORM = [
    *("--patch", "--full-index", "--no-renames", "--no-color", "--no-ext-diff", "--no-textconv", "--unified=3"),
    *("--src-prefix=a/", "--dst-prefix=b/", "--diff-algorithm=histogram"),
]


def diff_of(repo: git.Repo, sha: str) -> bytes:
    """One commit as a patch in the form that is kept."""
    return bytes(
        repo.git.diff_tree(*FORM, "--no-commit-id", sha, stdout_as_string=False, strip_newline_in_stdout=False)
    )


def staged_diff(repo: git.Repo) -> bytes:
    """What is in the index, against HEAD, in the same form."""
    return bytes(repo.git.diff(*FORM, "--cached", stdout_as_string=False, strip_newline_in_stdout=False))


def lay(repo: git.Repo, manifest: Manifest, series: Series) -> None:
    """One commit for each patch of ``series``."""
    for name in series.patches:
        commit_patch(repo, manifest, name)


def same_text(one: bytes, other: bytes) -> bool:
    """Whether two patches make the same change in the same words, at whatever lines and on whatever blobs."""
    return _bare(one) == _bare(other)


def _bare(patch: bytes) -> list[bytes]:
    def bare(line: bytes) -> bytes:
        if line.startswith(b"@@ "):
            return b"@@"
        return b"index" if line.startswith(b"index ") else line

    return [bare(line) for line in patch.split(b"\n")]


def write_patches(directory: Path, patches: Mapping[str, bytes]) -> list[str]:
    """Write the diffs that differ from what is kept; returns their names."""
    from gaudi_patch.disk import Disk, Image, read_image

    disk, written = Disk(), []
    for name, data in patches.items():
        file = directory / name
        existing = read_image(file)
        if existing is not None and existing.data == data:
            continue
        file.parent.mkdir(parents=True, exist_ok=True)
        temp = file.with_name(f".{file.name}.new")
        disk.unlink(temp)
        disk.write_new(temp, Image(data, 0o644))
        disk.replace(temp, file)
        disk.sync_directory(file.parent)
        written.append(name)
    return written
