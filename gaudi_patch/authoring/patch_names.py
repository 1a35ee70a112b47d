"""Name the commits of a port: after an existing patch with the same text, else as a new patch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

from gaudi_patch.authoring import worktree
from gaudi_patch.authoring.staging import NewPatch
from gaudi_patch.errors import refused
from gaudi_patch.series import patch_files
from gaudi_patch.series.manifest import Manifest

if TYPE_CHECKING:
    import git


class Named(NamedTuple):
    """One commit: the name of its patch, its subject, and the new patch to write (None if one has its text)."""

    patch: str
    subject: str
    new: NewPatch | None


def name(repo: git.Repo, manifest: Manifest, release: str) -> list[Named]:
    """Name the commits of the worktree, in order.

    A commit's trailer names the patch that it was ported from; its message gives why, upstream and remove_when.
    """
    kept = {patch_name: manifest.read_patch(patch_name) for patch_name in manifest.patches}
    named: list[Named] = []
    for commit in worktree.commits(repo):
        same = [patch_name for patch_name, text in kept.items() if worktree.same_text(text, commit.diff)]
        if same:
            # Prefer its own name: two patches may have the same text.
            named.append(Named(commit.patch if commit.patch in same else same[0], commit.subject, None))
            continue
        source = commit.patch if commit.patch in manifest.patches else ""
        own = _own_name(commit.patch, release)
        patch = worktree.described(str(repo.commit(commit.sha).message), own)
        if not commit.patch or patch is None:
            raise refused(
                "unnamed-patch",
                f"commit {commit.sha[:10]} ({commit.subject}) does not name its patch; nothing was written",
                "amend its message: a title, why it is needed, then Upstream:, Remove-when: and "
                f"Patch: TOPIC/{release}.patch",
                str(repo.working_dir),
            )
        if source:
            patch = patch._replace(capabilities=manifest.patches[source].capabilities)
        named.append(Named(own, commit.subject, NewPatch(patch, commit.diff, source)))
    names = [naming.patch for naming in named]
    if twice := sorted({patch_name for patch_name in names if names.count(patch_name) > 1}):
        raise refused(
            "named-twice",
            f"two commits are named {twice[0]}; nothing was written",
            "squash them",
            str(repo.working_dir),
        )
    return named


def retitle(repo: git.Repo, names: Sequence[str]) -> None:
    """Write the patch names into the commits' trailers, so that `dev refresh` finds them; no file changes."""
    tip = repo.commit(worktree.PRISTINE).hexsha
    for patch_name, found in zip(names, worktree.commits(repo), strict=True):
        commit = repo.commit(found.sha)
        message = str(commit.message).replace(f"{worktree.TRAILER}{found.patch}", f"{worktree.TRAILER}{patch_name}")
        tip = repo.git.commit_tree(commit.tree.hexsha, "-p", tip, "-m", message)
    repo.git.reset("--soft", tip)


def _own_name(source: str, release: str) -> str:
    """Return ``adapter/0.5.7.patch`` for adapter/0.4.7.patch; sources, part of every series, keep their name."""
    topic = PurePosixPath(source).parent.name or PurePosixPath(source).stem
    return source if patch_files.is_source(source) else f"{topic}/{release}.patch"
