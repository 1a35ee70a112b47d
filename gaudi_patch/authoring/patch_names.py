"""The commits of a port as patches: shared with other releases where the text is the same, else of its own."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

from gaudi_patch.authoring import worktree
from gaudi_patch.authoring.staging import NewPatch
from gaudi_patch.errors import refused
from gaudi_patch.series.manifest import Manifest, Patch

if TYPE_CHECKING:
    import git


class Named(NamedTuple):
    """One commit: the name of its patch, its subject, and what is to be written where no patch has its text yet."""

    patch: str
    subject: str
    new: NewPatch | None


def name(repo: git.Repo, manifest: Manifest, release: str) -> list[Named]:
    """Name the commits of the worktree, in order.

    A commit's trailer names the patch that it was ported from; its message says why, upstream and remove_when.
    """
    kept = {one: (manifest.directory / one).read_bytes() for one in manifest.patches}
    named: list[Named] = []
    for commit in worktree.commits(repo):
        same = [one for one, text in kept.items() if worktree.same_text(text, commit.diff)]
        if same:
            # Its own name first: two patches may have the same text.
            named.append(Named(commit.patch if commit.patch in same else same[0], commit.subject, None))
            continue
        reasons = worktree.reasons(str(repo.commit(commit.sha).message))
        if not commit.patch or reasons is None:
            raise refused(
                "unnamed-patch",
                f"commit {commit.sha[:10]} ({commit.subject}) does not say what it is; nothing was written",
                f"amend its message: why it is there, then Upstream:, Remove-when: and Patch: {release}/NAME.patch",
                str(repo.working_dir),
            )
        source = commit.patch if commit.patch in manifest.patches else ""
        own = _own_name(commit.patch, release)
        named.append(Named(own, commit.subject, NewPatch(Patch(own, *reasons), commit.diff, source)))
    names = [one.patch for one in named]
    if twice := sorted({one for one in names if names.count(one) > 1}):
        raise refused(
            "named-twice", f"two commits are {twice[0]}; nothing was written", "squash them", str(repo.working_dir)
        )
    return named


def retitle(repo: git.Repo, names: Sequence[str]) -> None:
    """Give the commits the names that their patches have got, so that `dev refresh` knows them; files stay."""
    tip = repo.commit(worktree.PRISTINE).hexsha
    for one, found in zip(names, worktree.commits(repo), strict=True):
        commit = repo.commit(found.sha)
        message = str(commit.message).replace(f"{worktree.TRAILER}{found.patch}", f"{worktree.TRAILER}{one}")
        tip = repo.git.commit_tree(commit.tree.hexsha, "-p", tip, "-m", message)
    repo.git.reset("--soft", tip)


def _own_name(source: str, release: str) -> str:
    """``0.5.6/adapter.patch`` for common/adapter-0.4.7.patch."""
    stem = re.sub(r"-[0-9][0-9a-z.]*$", "", PurePosixPath(source).stem)
    return f"{release}/{stem}.patch"
