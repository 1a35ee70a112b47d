"""`dev port OLD NEW`: carry a series to a new release by three-way merge, and prove it there."""

from __future__ import annotations

import json
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from gaudi_patch.authoring import lint, patch_names, port_report, prove, source, staging, wheels, worktree
from gaudi_patch.authoring.edit import SERIES_FILE, series_of
from gaudi_patch.authoring.git_settings import with_own_git
from gaudi_patch.authoring.lock import release_of
from gaudi_patch.errors import Exit, GaudiPatchError, refused
from gaudi_patch.output.report import Diff, Result, Text
from gaudi_patch.series import lock
from gaudi_patch.series.manifest import default_directory, load

if TYPE_CHECKING:
    import git

PLAN_FILE = "gaudi-patch-port.json"


class PortOptions(NamedTuple):
    """How to port.

    wheel: of the new release, where PyPI is not to be asked. smoke: whether to prove the series; python: whose
    packages to do it with, default those of the running interpreter.
    """

    wheel: Path | None = None
    smoke: bool = True
    python: Path | None = None


@with_own_git
def port(
    old: str,
    new: str,
    folder: Path | None,
    directory: Path | None,
    options: PortOptions = PortOptions(),  # noqa: B008
) -> Result:
    """Cherry-pick each patch of series ``old`` onto the wheel of release ``new``.

    What merges is committed; what is there upstream already is dropped, and said; the first real conflict
    stops with both sides shown (exit 1), to be resolved and continued or aborted. In the end the new series is
    drafted, compared with the wheels, and put through the smoke checks; only then are the patches, the manifest and
    the lock written.
    """
    directory = directory or default_directory()
    manifest = source.load(directory)
    series = series_of(manifest.series, old)
    if any(entry.id == new for entry in manifest.series):
        raise GaudiPatchError(
            Exit.USAGE,
            "exists",
            f"the manifest has a series {new} already; nothing was changed",
            f"gaudi-patch dev edit {new}{lock.option(directory)}",
            str(manifest.file),
        )
    folder = folder or Path(f"{manifest.package}-{new}-port")
    started = time.time()
    new_wheel = options.wheel or wheels.fetch(manifest.package, new)
    repo = worktree.create(folder, manifest.package, wheels.fetch(manifest.package, release_of(series)))
    worktree.lay(repo, manifest, series)
    picks = [commit.hexsha for commit in reversed(list(repo.iter_commits(f"{worktree.PRISTINE}..HEAD")))]
    repo.git.checkout("--quiet", "-b", "ported", worktree.PRISTINE)
    worktree.unpack(repo, manifest.package, new_wheel)
    repo.git.commit("--quiet", "--allow-empty", "--message", f"{new_wheel.name}\n\nThe pristine wheel.")
    repo.git.tag("--force", worktree.PRISTINE)
    plan = {
        "old": old,
        "new": new,
        "todo": picks,
        "dropped": [],
        "started": started,
        "directory": str(directory.resolve()),
        "wheel": str(new_wheel.resolve()),
        "smoke": options.smoke,
        "python": str(options.python.absolute()) if options.python else "",
    }
    Path(repo.git_dir, SERIES_FILE).write_text(new)
    return _go_on(repo, plan)


@with_own_git
def proceed(folder: Path) -> Result:
    """Continue after a conflict was resolved (`git add`), or after commits that failed the checks were amended."""
    repo = worktree.open_repo(folder)
    plan = _load(repo)
    if plan["todo"]:
        unmerged = repo.git.diff("--name-only", "--diff-filter=U").split()
        marked = [
            path for path in repo.git.diff("--name-only", "HEAD").split() if _has_markers(Path(repo.working_dir, path))
        ]
        if unmerged or marked:
            raise refused(
                "unresolved",
                f"unresolved: {', '.join(sorted({*unmerged, *marked}))}",
                "resolve, and `git add` the files",
                str(folder),
            )
        _commit(repo, plan, plan["todo"].pop(0))
    return _go_on(repo, plan)


@with_own_git
def abort(folder: Path) -> Result:
    """Give up the port: the manifest and the patches stay as they were, and the worktree is left to look at."""
    repo = worktree.open_repo(folder)
    _load(repo)
    repo.git.reset("--hard", "--quiet")
    Path(repo.git_dir, PLAN_FILE).unlink()
    return Result(
        "dev port", blocks=[Text(f"aborted; nothing was written to the patches, {folder} can be removed", "good")]
    )


def _go_on(repo: git.Repo, plan: dict[str, Any]) -> Result:
    import git

    while plan["todo"]:
        sha = plan["todo"][0]
        try:
            repo.git.cherry_pick("--no-commit", sha)
        except git.GitCommandError:
            _save(repo, plan)
            return _conflict(repo, plan, sha)
        _commit(repo, plan, plan["todo"].pop(0))
    _save(repo, plan)
    result = _finish(repo, plan)
    if result.exit is Exit.OK:
        Path(repo.git_dir, PLAN_FILE).unlink()
    return result


def _commit(repo: git.Repo, plan: dict[str, Any], sha: str) -> None:
    """Commit what was picked, under the message of its source; commit nothing if the release has the change."""
    message = str(repo.commit(sha).message)
    if worktree.staged_diff(repo):
        repo.git.commit("--quiet", "--message", message)
    else:
        plan["dropped"].append(worktree.trailer(message))


def _conflict(repo: git.Repo, plan: dict[str, Any], sha: str) -> Result:
    name = worktree.trailer(str(repo.commit(sha).message))
    folder = Path(repo.working_dir)
    files = repo.git.diff("--name-only", "--diff-filter=U").split()
    both_sides = repo.git.diff("--no-color")
    fault = refused(
        "conflict",
        f"{name} conflicts with {plan['new']} in {', '.join(files)}",
        f"resolve and `git add` there, then gaudi-patch dev port --continue {shlex.quote(str(folder))} (or --abort)",
        str(folder),
    )
    done = [
        worktree.trailer(str(commit.message))
        for commit in repo.iter_commits(f"{worktree.PRISTINE}..HEAD", reverse=True)
    ]
    data = {"conflict": name, "files": files, "merged": done, "dropped": plan["dropped"]}
    sides = (
        f"HEAD is {plan['new']} with the patches so far, the parent is {plan['old']} before the patch, "
        f"the other side is the patch. Merged: {len(done)}; still to come: {len(plan['todo']) - 1}."
    )
    return Result("dev port", Exit.REFUSED, data, [Diff(both_sides), Text(sides)], errors=[fault])


def _finish(repo: git.Repo, plan: dict[str, Any]) -> Result:
    """Draft the series, prove it, and publish it; shared patches stay shared."""
    directory, wheel = Path(plan["directory"]), Path(plan["wheel"])
    manifest = source.load(directory)
    named = patch_names.name(repo, manifest, plan["new"])
    fresh = [naming.new for naming in named if naming.new is not None]
    names = [naming.patch for naming in named]
    old = series_of(manifest.series, plan["old"])
    with staging.draft(directory) as drafted:
        staging.write(drafted, {naming.patch.name: naming.diff for naming in fresh})
        staging.add_series(drafted, manifest, old, plan["new"], names)
        for naming in fresh:
            if naming.patch.name not in manifest.patches:
                staging.add_patch(drafted, naming)
        lint.lint(drafted, write=True, known={plan["new"]: wheel})
        python = Path(plan["python"]) if plan["python"] else None
        proved = prove.prove(drafted, wheel, python) if plan["smoke"] else prove.PortProof()
        ported = load(drafted)
        lines = lint.routing(ported)[plan["new"]]
        result = port_report.report(repo, plan, named, ported, lines, proved)
        if result.exit is Exit.OK:
            staging.publish(drafted, directory)
            patch_names.retitle(repo, names)
    if result.errors:
        folder = shlex.quote(str(repo.working_dir))
        result.errors[0].message += "; nothing was written to the patches"
        result.errors[0].hint = f"amend the commits there, then gaudi-patch dev port --continue {folder}"
    return result


def _has_markers(path: Path) -> bool:
    return path.is_file() and any(
        line.startswith((b"<<<<<<< ", b">>>>>>> ")) for line in path.read_bytes().split(b"\n")
    )


def _save(repo: git.Repo, plan: dict[str, Any]) -> None:
    Path(repo.git_dir, PLAN_FILE).write_text(json.dumps(plan))


def _load(repo: git.Repo) -> dict[str, Any]:
    file = Path(repo.git_dir, PLAN_FILE)
    if not file.exists():
        raise GaudiPatchError(
            Exit.USAGE, "no-port", "no port is under way here", "gaudi-patch dev port OLD NEW", str(repo.working_dir)
        )
    plan: dict[str, Any] = json.loads(file.read_text())
    return plan
