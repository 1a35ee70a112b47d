"""`dev edit` and `dev refresh`: turn a series into commits, and the commits back into a series."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from gaudi_patch.authoring import lint, source, staging, wheels, worktree
from gaudi_patch.authoring.git_settings import with_own_git
from gaudi_patch.authoring.lock import release_of
from gaudi_patch.errors import Exit, GaudiPatchError
from gaudi_patch.series import lock, patch_files
from gaudi_patch.series.manifest import Series, default_directory

SERIES_FILE = "gaudi-patch-series"
WHEEL_FILE = "gaudi-patch-wheel"


@dataclass(frozen=True)
class Worktree:
    """A series as commits in ``folder``; ``directory`` contains the manifest."""

    folder: Path
    directory: Path
    series: Series


@dataclass(frozen=True)
class Refreshed:
    """The patches ``written``, and the lint result of the whole manifest with them."""

    written: tuple[str, ...]
    linted: lint.Linted


@with_own_git
def edit(version: str, folder: Path | None, directory: Path | None, wheel: Path | None = None) -> Worktree:
    """Create a git worktree with the pristine wheel and one commit per patch of a series."""
    directory = directory or default_directory()
    manifest = source.load(directory)
    series = series_of(manifest.series, version)
    folder = folder or Path(f"{manifest.package}-{series.id}-edit")
    repo = worktree.create(folder, manifest.package, wheel or wheels.fetch(manifest.package, release_of(series)))
    worktree.lay(repo, manifest, series)
    Path(repo.git_dir, SERIES_FILE).write_text(series.id)
    if wheel is not None:
        Path(repo.git_dir, WHEEL_FILE).write_text(str(wheel.resolve()))
    return Worktree(folder, directory, series)


@with_own_git
def refresh(folder: Path, directory: Path | None, *, fewer_hunks: bool = False) -> Refreshed:
    """Write the commits of a worktree back as the diffs of its series, and renew the lock.

    Nothing is written before the whole result has been validated. A patch kept as sources is written as sources.
    """
    directory = directory or default_directory()
    manifest = source.load(directory)
    repo = worktree.open_repo(folder)
    series = series_of(manifest.series, Path(repo.git_dir, SERIES_FILE).read_text().strip())
    commits = worktree.commits(repo)
    for number, commit in enumerate(commits):
        if not commit.patch:
            raise GaudiPatchError(
                Exit.REFUSED,
                "unnamed-patch",
                f"commit {number + 1} ({commit.subject}) has no `Patch: TOPIC/{series.id}.patch`; nothing was written",
                "add one to its message, and describe the patch in manifest.toml (title, why, upstream, remove_when)",
                str(folder),
            )
    names = tuple(commit.patch for commit in commits)
    if names != series.patches:
        raise GaudiPatchError(
            Exit.REFUSED,
            "series-differs",
            f"the commits are {', '.join(names)}; the manifest's series {series.id} is {', '.join(series.patches)}; "
            "nothing was written",
            "make `patches` of the series in manifest.toml list the same names in the same order",
            str(manifest.file),
        )
    # A shared patch has the line numbers of one release; other line numbers are no change.
    changed = {edited.patch: edited.diff for edited in commits if not _kept(directory, edited.patch, edited.diff)}
    given = Path(repo.git_dir, WHEEL_FILE)
    known = {release_of(series): Path(given.read_text())} if given.exists() else {}
    with staging.draft(directory) as drafted:
        written = staging.write(drafted, changed)
        linted = lint.lint(drafted, write=True, known=known, fewer_hunks=fewer_hunks)
        staging.publish(drafted, directory)
    return Refreshed(tuple(written), replace(linted, file=directory / lock.NAME))


def _kept(directory: Path, name: str, diff: bytes) -> bool:
    return (directory / name).exists() and worktree.same_text(patch_files.read(directory, name), diff)


def series_of(known: tuple[Series, ...], name: str) -> Series:
    """Return the series with this id. Raises ``unknown-series`` if there is none."""
    for series in known:
        if series.id == name:
            return series
    hint = f"series: {', '.join(series.id for series in known)}"
    raise GaudiPatchError(Exit.NOT_FOUND, "unknown-series", f"the manifest has no series {name}", hint)
