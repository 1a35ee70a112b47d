"""`dev port OLD NEW`: carry a series to a new release by three-way merge."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gaudi_patch.authoring import lint, wheels, worktree
from gaudi_patch.authoring.edit import SERIES_FILE, series_of
from gaudi_patch.authoring.lock import release_of
from gaudi_patch.disk import Disk, Image
from gaudi_patch.errors import Exit, GaudiPatchError, refused
from gaudi_patch.manifest import Manifest, Series, default_directory, load
from gaudi_patch.report import Block, Diff, Result, Table, Text

if TYPE_CHECKING:
    import git

PLAN_FILE = "gaudi-patch-port.json"


def port(old: str, new: str, folder: Path | None, directory: Path | None, wheel: Path | None = None) -> Result:
    """Cherry-pick each patch of series ``old`` onto the wheel of release ``new``.

    What merges is committed; what is there upstream already is dropped, and said; the first real conflict
    stops with both sides shown (exit 1), to be resolved and continued or aborted. In the end the patches, the
    manifest and the lock are written.
    """
    directory = directory or default_directory()
    manifest = load(directory, require_lock=False)
    series = series_of(manifest.series, old)
    if any(one.id == new for one in manifest.series):
        raise GaudiPatchError(
            Exit.USAGE,
            "exists",
            f"the manifest has a series {new} already; nothing was changed",
            "",
            str(manifest.file),
        )
    folder = folder or Path(f"{manifest.package}-{new}-port")
    started = time.time()
    repo = worktree.create(folder, manifest.package, wheels.fetch(manifest.package, release_of(series)))
    worktree.lay(repo, manifest, series)
    picks = [commit.hexsha for commit in reversed(list(repo.iter_commits(f"{worktree.PRISTINE}..HEAD")))]
    repo.git.checkout("--quiet", "-b", "ported", worktree.PRISTINE)
    new_wheel = wheel or wheels.fetch(manifest.package, new)
    worktree.unpack(repo, manifest.package, new_wheel)
    repo.git.commit("--quiet", "--allow-empty", "--message", f"{new_wheel.name}\n\nThe pristine wheel.")
    repo.git.tag("--force", worktree.PRISTINE)
    plan = {
        "old": old,
        "new": new,
        "todo": picks,
        "dropped": [],
        "sources": {},
        "started": started,
        "directory": str(directory.resolve()),
    }
    Path(repo.git_dir, SERIES_FILE).write_text(new)
    return _go_on(repo, plan)


def proceed(folder: Path) -> Result:
    """Go on after a conflict was resolved (`git add`)."""
    repo = worktree.open_repo(folder)
    plan = _load(repo)
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


def abort(folder: Path) -> Result:
    """Give up: the manifest and the patches are as they were; the worktree is left for a look."""
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
    Path(repo.git_dir, PLAN_FILE).unlink()
    return result


def _commit(repo: git.Repo, plan: dict[str, Any], sha: str) -> None:
    """Commit what was picked; under its old name where the text is the same, so that it stays shared."""
    diff = worktree.staged_diff(repo)
    name = _name(repo, sha)
    if not diff:
        plan["dropped"].append(name)
        return
    file = Path(plan["directory"], name)
    if not (file.is_file() and worktree.same_text(file.read_bytes(), diff)):
        plan["sources"][(fresh := f"{plan['new']}/{Path(name).name}")] = name
    else:
        fresh = name
    text = str(repo.commit(sha).message).replace(f"{worktree.TRAILER}{name}", f"{worktree.TRAILER}{fresh}")
    repo.git.commit("--quiet", "--message", text)


def _conflict(repo: git.Repo, plan: dict[str, Any], sha: str) -> Result:
    name = _name(repo, sha)
    folder = Path(repo.working_dir)
    files = repo.git.diff("--name-only", "--diff-filter=U").split()
    both_sides = repo.git.diff("--no-color")
    fault = refused(
        "conflict",
        f"{name} conflicts with {plan['new']} in {', '.join(files)}",
        f"resolve and `git add` in {folder}, then gaudi-patch dev port --continue {folder} (or --abort)",
        str(folder),
    )
    done = [_name(repo, one.hexsha) for one in reversed(list(repo.iter_commits(f"{worktree.PRISTINE}..HEAD")))]
    data = {"conflict": name, "files": files, "merged": done, "dropped": plan["dropped"]}
    return Result("dev port", Exit.REFUSED, data, [Diff(both_sides)], errors=[fault])


def _finish(repo: git.Repo, plan: dict[str, Any]) -> Result:
    """Write the patches (shared ones stay shared), the series, and the lock."""
    directory = Path(plan["directory"])
    manifest = load(directory, require_lock=False)
    old = series_of(manifest.series, plan["old"])
    ported = worktree.commits(repo)
    fresh = {commit.patch: commit.diff for commit in ported if commit.patch in plan["sources"]}
    worktree.write_patches(directory, fresh)
    _append_series(manifest, old, plan, [commit.patch for commit in ported])
    checked = lint.lint(directory, write=True)
    rows = [(commit.patch, "new" if commit.patch in fresh else "shared", commit.subject) for commit in ported]
    rows += [(name, "obsolete", "upstream has the change") for name in plan["dropped"]]
    seconds = time.time() - plan["started"]
    blocks: list[Block] = [
        Table(("patch", "is", "what"), rows, f"Series {plan['new']}, ported from {plan['old']}"),
        Text(f"the series is in the manifest and in the lock; {seconds:.0f} s since the port began", "good"),
        Text(
            "next: gaudi-patch smoke on an installation of that release, and look at its capabilities in manifest.toml",
            "next",
        ),
    ]
    data = {
        "series": plan["new"],
        "patches": [commit.patch for commit in ported],
        "new": sorted(fresh),
        "dropped": plan["dropped"],
        "seconds": seconds,
    }
    return Result("dev port", checked.exit, data, blocks, errors=checked.errors)


def _append_series(manifest: Manifest, old: Series, plan: dict[str, Any], names: list[str]) -> None:
    """Add the series to manifest.toml as text: comments and order of what is there stay."""
    lines = ["", "[[series]]", f'versions = "=={plan["new"]}"', f"patches = {json.dumps(names)}"]
    lines.append(f"capabilities = {json.dumps(list(old.capabilities))}")
    for name in names:
        if name not in plan["sources"]:
            continue
        source = manifest.patches[plan["sources"][name]]
        lines += ["", f'[patch."{name}"]']
        lines += [
            f"{key} = {json.dumps(getattr(source, key), ensure_ascii=False)}"
            for key in ("why", "upstream", "remove_when")
        ]
    text = manifest.file.read_text(encoding="utf-8")
    data = (text.rstrip("\n") + "\n" + "\n".join(lines) + "\n").encode()
    disk = Disk()
    temp = manifest.file.with_name(f".{manifest.file.name}.new")
    disk.unlink(temp)
    disk.write_new(temp, Image(data, 0o644))
    disk.replace(temp, manifest.file)
    disk.sync_directory(manifest.directory)


def _name(repo: git.Repo, sha: str) -> str:
    text = str(repo.commit(sha).message)
    return next((line[len(worktree.TRAILER) :] for line in text.splitlines() if line.startswith(worktree.TRAILER)), "")


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
