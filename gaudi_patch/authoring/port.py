"""`dev port OLD NEW`: port a series to a new release by three-way merge, and prove it there."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from gaudi_patch.authoring import gaps, lint, patch_names, prove, source, staging, wheels, worktree
from gaudi_patch.authoring.edit import SERIES_FILE, series_of
from gaudi_patch.authoring.git_settings import with_own_git
from gaudi_patch.authoring.lock import release_of
from gaudi_patch.errors import Exit, GaudiPatchError, refused
from gaudi_patch.output.progress import leaves
from gaudi_patch.series import lock
from gaudi_patch.series.manifest import Manifest, Series, default_directory, load

if TYPE_CHECKING:
    import git

PLAN_FILE = "gaudi-patch-port.json"


class PortOptions(NamedTuple):
    """How to port.

    wheel: of the new release, downloaded if None. smoke: prove the series. python: the interpreter whose packages the
    proof uses, by default the running one.
    """

    wheel: Path | None = None
    smoke: bool = True
    python: Path | None = None


@dataclass
class Plan:
    """A port in progress, saved in the worktree's .git directory between its steps.

    ``todo``: the commits still to be picked. ``dropped``: the patches that the release already has. ``started`` is in
    seconds since the epoch; paths are absolute, "" for none.
    """

    old: str
    new: str
    directory: str
    wheel: str
    started: float
    smoke: bool = True
    python: str = ""
    todo: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Conflict:
    """A patch that does not merge: its name, the files, both sides as a diff, and the patches merged so far.

    ``gone``: the files that the new release no longer has; for these, the diff is the patch's own change.
    """

    plan: Plan
    folder: Path
    patch: str
    files: tuple[str, ...]
    gone: tuple[str, ...]
    diff: str
    merged: tuple[str, ...]

    @property
    def fault(self) -> GaudiPatchError:
        """Return the conflict as an error with a hint."""
        folder = shlex.quote(str(self.folder))
        removed = " (or `git rm`)" if self.gone else ""
        return refused(
            "conflict",
            f"{self.patch} conflicts with {self.plan.new} in {', '.join(self.files)}",
            f"resolve and `git add`{removed} the files there, then `gaudi-patch dev port --continue {folder}` (or "
            f"--abort)",
            str(self.folder),
        )

    @property
    def exit(self) -> Exit:
        """Return the exit code."""
        return Exit.REFUSED


@dataclass(frozen=True)
class Ported:
    """A finished port: written to the patches, unless ``proof`` has a fault.

    ``lines``: number of the release's lines that the series changes. Not covered by the smoke checks: ``unproved``
    capabilities, ``calls`` to a device that are new in the release, and ``stale`` patches whose remove_when names other
    releases.
    """

    plan: Plan
    named: tuple[patch_names.Named, ...]
    drafted: Manifest
    lines: int
    seconds: float
    proof: prove.PortProof
    unproved: tuple[gaps.Gap, ...]
    calls: tuple[gaps.Call, ...]
    stale: tuple[str, ...]

    @property
    def exit(self) -> Exit:
        """Return the exit code."""
        return Exit.OK if self.proof.fault is None else self.proof.fault.exit


@with_own_git
def port(
    old: str,
    new: str,
    folder: Path | None,
    directory: Path | None,
    options: PortOptions = PortOptions(),  # noqa: B008 - immutable
) -> Ported | Conflict:
    """Cherry-pick each patch of series ``old`` onto the wheel of release ``new``.

    For a site's own manifest, only its own patches are picked, onto the built-in series of ``new``.

    A patch that merges is committed. A patch that upstream already has is dropped and reported. The first real
    conflict stops the port and shows both sides (exit 1), to be resolved and continued, or aborted. At the end the new
    series is drafted, compared with the wheels and proved by the smoke checks. Only then are the patches, the manifest
    and the lock written.
    """
    directory = directory or default_directory()
    manifest = source.load(directory)
    series = series_of(manifest.series, old)
    if any(entry.id == new for entry in manifest.series):
        raise GaudiPatchError(
            Exit.USAGE,
            "exists",
            f"the manifest already has a series {new}; nothing was changed",
            f"gaudi-patch dev edit {new}{lock.option(directory)}",
            str(manifest.file),
        )
    under = _under(manifest, new)
    folder = folder or Path(f"{manifest.package}-{new}-port")
    started = time.time()
    new_wheel = options.wheel or wheels.fetch(manifest.package, new)
    old_wheel = wheels.fetch(manifest.package, release_of(series))
    leaves(f"the worktree {folder} is left as it is, and the patches are unchanged")
    repo = worktree.create(folder, manifest.package, old_wheel)
    worktree.lay(repo, manifest, series)
    own = {name for name in series.patches if not manifest.patches[name].built_in}
    picks = [commit.sha for commit in worktree.commits(repo) if commit.patch in own]
    repo.git.checkout("--quiet", "-b", "ported", worktree.PRISTINE)
    worktree.unpack(repo, manifest.package, new_wheel)
    repo.git.commit("--quiet", "--allow-empty", "--message", f"{new_wheel.name}\n\nThe pristine wheel.")
    repo.git.tag("--force", worktree.PRISTINE)
    if under is not None:
        worktree.lay(repo, manifest, under)
    plan = Plan(
        old,
        new,
        str(directory.resolve()),
        str(new_wheel.resolve()),
        started,
        options.smoke,
        str(options.python.absolute()) if options.python else "",
        picks,
    )
    Path(repo.git_dir, SERIES_FILE).write_text(new)
    return _go_on(repo, plan)


def _under(manifest: Manifest, new: str) -> Series | None:
    """Return the built-in series of ``new`` as the base for a site's own patches; None for other manifests.

    Raises ``unknown-version`` (exit 3) if gaudi-patch has no such series yet.
    """
    if not any(patch.built_in for patch in manifest.patches.values()):
        return None
    series = load(default_directory()).verdict(new).series
    if series is None:
        raise GaudiPatchError(
            Exit.NOT_FOUND,
            "unknown-version",
            f"gaudi-patch has no series for {new} to put these patches on top of; nothing was changed",
            "upgrade gaudi-patch; `gaudi-patch list` has the supported releases",
            str(manifest.file),
        )
    return series


@with_own_git
def proceed(folder: Path) -> Ported | Conflict:
    """Continue after resolving a conflict (`git add`), or after amending commits that failed the smoke checks."""
    repo = worktree.open_repo(folder)
    plan = _load(repo)
    if plan.todo:
        unmerged = repo.git.diff("--name-only", "--diff-filter=U").split()
        marked = [
            path for path in repo.git.diff("--name-only", "HEAD").split() if _has_markers(Path(repo.working_dir, path))
        ]
        if unmerged or marked:
            raise refused(
                "unresolved",
                f"unresolved: {', '.join(sorted({*unmerged, *marked}))}",
                "resolve them and `git add` the files",
                str(folder),
            )
        _commit(repo, plan, plan.todo.pop(0))
    return _go_on(repo, plan)


@with_own_git
def abort(folder: Path) -> None:
    """Abort the port: the manifest and the patches stay unchanged, and the worktree is kept for inspection."""
    repo = worktree.open_repo(folder)
    _load(repo)
    repo.git.reset("--hard", "--quiet")
    Path(repo.git_dir, PLAN_FILE).unlink()


def _go_on(repo: git.Repo, plan: Plan) -> Ported | Conflict:
    import git

    while plan.todo:
        sha = plan.todo[0]
        try:
            repo.git.cherry_pick("--no-commit", sha)
        except git.GitCommandError:
            _save(repo, plan)
            return _conflict(repo, plan, sha)
        _commit(repo, plan, plan.todo.pop(0))
    _save(repo, plan)
    result = _finish(repo, plan)
    if result.exit is Exit.OK:
        Path(repo.git_dir, PLAN_FILE).unlink()
    return result


def _commit(repo: git.Repo, plan: Plan, sha: str) -> None:
    """Commit the picked patch with its original message; commit nothing if the release already has the change."""
    message = str(repo.commit(sha).message)
    if worktree.staged_diff(repo):
        repo.git.commit("--quiet", "--message", message)
    else:
        plan.dropped.append(worktree.trailer(message))


def _conflict(repo: git.Repo, plan: Plan, sha: str) -> Conflict:
    merged = repo.iter_commits(f"{worktree.PRISTINE}..HEAD", reverse=True)
    files = tuple(repo.git.diff("--name-only", "--diff-filter=U").split())
    gone = tuple(path for path in files if not repo.git.ls_tree("HEAD", "--", path))
    # For files in `gone`, git shows only that they are unmerged.
    both = [path for path in repo.git.diff("--name-only").split() if path not in gone]
    sides = [repo.git.diff("--no-color", "--", *both)] if both else []
    if gone:
        sides.append(repo.git.diff("--no-color", f"{sha}^", sha, "--", *gone))
    return Conflict(
        plan,
        Path(repo.working_dir),
        worktree.trailer(str(repo.commit(sha).message)),
        files,
        gone,
        "\n".join(sides),
        tuple(worktree.trailer(str(commit.message)) for commit in merged),
    )


def _finish(repo: git.Repo, plan: Plan) -> Ported:
    """Draft, prove and publish the series; shared patches stay shared."""
    directory, wheel = Path(plan.directory), Path(plan.wheel)
    manifest = source.load(directory)
    named = patch_names.name(repo, manifest, plan.new)
    fresh = [naming.new for naming in named if naming.new is not None]
    names = [naming.patch for naming in named]
    old = series_of(manifest.series, plan.old)
    with staging.draft(directory) as drafted:
        staging.write(drafted, {naming.patch.name: naming.diff for naming in fresh})
        known = manifest.patches
        listed = [name for name in names if name not in known or not known[name].built_in]
        staging.add_series(drafted, manifest, old, plan.new, listed)
        for naming in fresh:
            if naming.patch.name not in manifest.patches:
                staging.add_patch(drafted, naming)
        lint.lint(drafted, write=True, known={plan.new: wheel})
        python = Path(plan.python) if plan.python else None
        proved = prove.prove(drafted, wheel, python) if plan.smoke else prove.PortProof()
        ported = _ported(repo, plan, named, load(drafted), proved)
        if ported.exit is Exit.OK:
            staging.publish(drafted, directory)
            patch_names.retitle(repo, names)
    if proved.fault is not None:
        folder = shlex.quote(str(repo.working_dir))
        proved.fault.message += "; nothing was written to the patches"
        proved.fault.hint = f"amend the commits there, then `gaudi-patch dev port --continue {folder}`"
    return ported


def _ported(
    repo: git.Repo, plan: Plan, named: Sequence[patch_names.Named], drafted: Manifest, proved: prove.PortProof
) -> Ported:
    """Return the result, including everything that the smoke checks could not see."""
    series = series_of(drafted.series, plan.new)
    old = repo.git.rev_list("--max-parents=0", worktree.PRISTINE)
    return Ported(
        plan,
        tuple(named),
        drafted,
        lint.routing(drafted)[plan.new],
        time.time() - plan.started,
        proved,
        tuple(gaps.gaps([drafted.capabilities[name] for name in series.capabilities], proved.levels)),
        tuple(gaps.device_calls(repo, old, worktree.PRISTINE)),
        tuple(gaps.outdated([drafted.patches[name] for name in series.patches], plan.new)),
    )


def _has_markers(path: Path) -> bool:
    return path.is_file() and any(
        line.startswith((b"<<<<<<< ", b">>>>>>> ")) for line in path.read_bytes().split(b"\n")
    )


def _save(repo: git.Repo, plan: Plan) -> None:
    Path(repo.git_dir, PLAN_FILE).write_text(json.dumps(asdict(plan)))


def _load(repo: git.Repo) -> Plan:
    file = Path(repo.git_dir, PLAN_FILE)
    if not file.exists():
        raise GaudiPatchError(
            Exit.USAGE, "no-port", "no port is under way here", "gaudi-patch dev port OLD NEW", str(repo.working_dir)
        )
    return Plan(**json.loads(file.read_text()))
