"""Locate LMCache: one installation on disk, or a refusal that names the obstacle.

The target is what ``import`` would load. If the import and the metadata disagree, or either is ambiguous, the user
decides. The package is never imported.

Codes of the errors raised here and below: not-installed, broken-metadata, no-metadata, ambiguous-installation,
shadowed-installation, package-folder-missing, symlinked-package, not-a-directory-install, legacy-install,
strict-editable, editable-without-git, broken-checkout, foreign-git-directory, bad-target, interpreter-failed,
unreadable.
"""

# ruff: noqa: PTH118, PTH120
# Why: entries of sys.path are strings; only results are Path objects.

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from gaudi_patch.inside.sys_path import pth_lines
from gaudi_patch.opening import is_directory, is_file, is_there
from gaudi_patch.reading import read_text
from gaudi_patch.target.installation import Installation, Layout
from gaudi_patch.target.installation import Target as Target
from gaudi_patch.target.invocation import option, pip_line, reinstall_line
from gaudi_patch.target.refusals import ambiguous, bad_target, refusal, shadowed, unreadable, without_metadata
from gaudi_patch.target.search import Search, search_default, search_folder, search_image
from gaudi_patch.target.site_folder import DistInfo, Resolve, scan


def locate(
    target: Target, package: str = "lmcache", environ: Mapping[str, str] = os.environ, *, ask: bool = True
) -> Installation:
    """Find the one installation of ``package`` meant by ``target``; without ``ask``, run no interpreter.

    Raises GaudiPatchError: not found (none installed), refused (ambiguous, shadowed or unsupported; every path
    named), usage (a wrong --python, --path or --root) or environment (unreadable, the interpreter cannot run).
    """
    given = [f"--{name}" for name in ("python", "path", "root") if getattr(target, name) is not None]
    if len(given) > 1:
        raise bad_target(f"{' and '.join(given)} exclude each other", "use only one of them")
    if not ask:
        from gaudi_patch.target import unasked

        search = unasked.search(target, package, environ)
    elif target.root is not None:
        search = search_image(target.root, package)
    elif target.path is not None:
        search = search_folder(target.path, package, environ)
    else:
        search = search_default(target.python, package, environ)
    try:
        return replace(_decide(search, may_be_checkout=target.path is not None), target=target)
    except OSError as error:
        raise unreadable(error, search.where) from error


def _decide(search: Search, *, may_be_checkout: bool) -> Installation:
    """Return the one installation of a search, or raise the reason why there is none."""
    infos, imported = search.infos, search.imported
    if len(infos) > 1:
        raise ambiguous(search, [info.path for info in infos])
    if imported is not None and imported.kind in ("zip", "module"):
        raise refusal(
            "not-a-folder-install",
            f"import would load {search.package} from {imported.path}, which is not a package directory",
            "remove it from the path, or install LMCache's wheel with pip or uv",
            imported.path,
            *(info.path for info in infos),
        )
    if not infos:
        if may_be_checkout and imported is not None and imported.kind == "package" and not search.broken:
            git = git_dir(search.folders[0].path)
            if git is not None:
                return _checkout(search, imported.path, git)
        raise without_metadata(search)
    info = infos[0]
    beside = [path for path in search.legacy if os.path.dirname(path) == os.path.dirname(info.path)]
    if beside:
        raise ambiguous(search, [info.path, *beside])
    search.warnings += [f"{path} is ignored: {why}" for path, why in search.broken]
    search.warnings += [f"{path} is ignored: it is left over from an interrupted pip" for path in search.leftovers]
    return _editable(search, info) if info.editable else _wheel(search, info)


def _wheel(search: Search, info: DistInfo) -> Installation:
    """Return an installation in site-packages, next to its metadata."""
    site, package = os.path.dirname(info.path), search.package
    folder = os.path.join(site, package)
    imported = search.imported
    if imported is not None and imported.kind == "package" and imported.path != folder:
        raise shadowed(search, imported.path, info.path)
    if imported is None or imported.kind != "package":
        what = "has no __init__.py" if is_directory(Path(search.resolve(folder))) else "is missing"
        raise refusal(
            "package-folder-missing",
            f"{info.path} says that {package} {info.version} is installed, but {folder} {what}",
            f"`{reinstall_line(f'{package}=={info.version}', search.python, Path(search.resolve(site)))}` restores it",
            info.path,
            folder,
        )
    for path in (folder, info.path):
        _refuse_link(search, path)
    for other in search.folders:
        if other.found is not None and other.found.kind == "package" and other.found.path != folder:
            note = "another copy without metadata" if search.image_root else "never imported: another copy comes first"
            search.warnings.append(f"{other.found.path} is left alone ({note})")
    record = os.path.join(info.path, "RECORD") if info.has_record else None
    if record is None:
        search.warnings.append(f"{info.path} has no RECORD: an uninstall will leave behind files that patches add")
    return _installation(
        search,
        root=site,
        layout=Layout.IMAGE if search.image_root else Layout.WHEEL,
        info=info,
        record=record,
        state=info.path,
    )


def _editable(search: Search, info: DistInfo) -> Installation:
    """Return an editable installation: its source tree, which must be the top of a git checkout"""
    from urllib.parse import unquote

    project = search.place(unquote(re.sub(r"^file://[^/]*", "", info.url)))
    editable = pip_line(search.python, "install", "--no-deps", "-e", project)
    folder = search.imported.path if search.imported and search.imported.kind == "package" else None
    if folder is None:
        # For build systems whose finders are code, if there is no interpreter to ask.
        site = os.path.dirname(info.path)
        lines = pth_lines(site, search.resolve)
        lines = [search.place(n) if n.startswith("/") else os.path.join(site, n) for n in lines]
        for candidate in (*lines, project, os.path.join(project, "src")):
            importable = scan(candidate, search.package, search.resolve).found
            if importable is not None and importable.kind == "package":
                folder = importable.path
                break
    if folder is None:
        raise refusal(
            "package-folder-missing",
            f"{info.path} is an editable install of {project}, but no {search.package} directory is there",
            f"bring its source tree back; then `{editable}` installs it again",
            info.path,
            project,
        )
    real = search.resolve(folder)
    if not (real + os.sep).startswith(project + os.sep):
        raise shadowed(search, folder, f"{info.path}, an editable install of {project}")
    if any(part.startswith("__editable__") for part in Path(real).parts):
        raise refusal(
            "strict-editable",
            f"import would load links in {real}, in which the files that patches add would be missing",
            f"install it again without editable_mode=strict: `{editable}`",
            real,
            info.path,
        )
    git = git_dir(project, search.resolve, search.place)
    if git is None:
        raise refusal(
            "editable-without-git",
            f"{info.path} is an editable install of {project}, which is not the top of a git checkout; "
            "gaudi-patch would have no safe place for the original files",
            f"install it as a wheel: `{pip_line(search.python, 'install', '--no-deps', project)}`; or make it a "
            f"checkout: `{shlex.join(['git', 'init', project])}`",
            info.path,
            project,
        )
    return _installation(search, root=os.path.dirname(real), layout=Layout.EDITABLE, info=info, record=None, state=git)


def _checkout(search: Search, folder: str, git: str) -> Installation:
    """Return a git checkout: the state is kept in its .git directory, so that ``git status`` shows only the patched
    files.
    """
    _refuse_link(search, folder)
    return _installation(
        search, root=os.path.dirname(folder), layout=Layout.CHECKOUT, info=None, record=None, state=git
    )


def git_dir(folder: str, resolve: Resolve = os.path.realpath, place: Resolve = os.path.realpath) -> str | None:
    """Return the .git directory if ``folder`` is the top of a checkout, else None.

    A worktree's or submodule's ``.git`` file is followed. Parent directories are not examined: a site-packages
    directory inside a repository is not a checkout. ``folder`` has its links followed already; ``resolve`` and
    ``place`` are those of ``Search``.
    """
    dot_git = os.path.join(folder, ".git")
    if not is_there(Path(dot_git)):
        return None
    git_dir = resolve(dot_git)
    if is_file(Path(git_dir)):
        pointer = read_text(git_dir).partition("\n")[0].removeprefix("gitdir: ")
        git_dir = place(pointer) if pointer.startswith("/") else resolve(os.path.join(folder, pointer))
    if not is_file(Path(git_dir, "HEAD")):
        raise refusal(
            "broken-checkout",
            f"{dot_git} leads to {git_dir}, which is not a git directory (it has no HEAD)",
            "clone the repository again, or remove .git and install LMCache as a wheel",
            dot_git,
            git_dir,
        )
    if git_dir != dot_git and (why := _is_of_another(git_dir, folder, resolve, place)):
        raise refusal(
            "foreign-git-folder",
            f"{dot_git} leads to {git_dir}, which {why}; gaudi-patch keeps its state in no other checkout",
            f"if the checkout was moved, run `git -C {folder} worktree repair`; otherwise clone the repository again",
            dot_git,
            git_dir,
        )
    return git_dir


def _is_of_another(git: str, folder: str, resolve: Resolve, place: Resolve) -> str:
    """Return why the git directory ``git``, outside the checkout ``folder``, does not belong to it; "" if it does.

    A worktree's git directory names its ``.git`` file, a submodule's its tree; with --separate-git-dir it names
    neither.
    """

    def named(path: str) -> str:
        return place(path) if path.startswith("/") else resolve(os.path.join(git, path))

    if git.endswith("/.git"):
        return f"belongs to {os.path.dirname(git)}"
    back = os.path.join(git, "gitdir")
    if is_file(Path(back)):
        other = os.path.dirname(named(read_text(back).partition("\n")[0]))
        if other != folder:
            return f"belongs to {other}"
    config = os.path.join(git, "config")
    tree = (
        re.search(r"^\s*worktree\s*=\s*(.*\S)\s*$", read_text(config), re.MULTILINE) if is_file(Path(config)) else None
    )
    if tree and named(tree[1].strip('"')) != folder:
        return f"belongs to {tree[1]}"
    if Path(git).stat().st_uid != Path(folder).stat().st_uid:
        return "belongs to another user"
    return ""


def _refuse_link(search: Search, path: str) -> None:
    """Refuse a directory that is a link: its files belong to another tree, perhaps shared with other environments."""
    real = search.resolve(path)
    if real != path:
        raise refusal(
            "symlinked-package",
            f"{path} is a link to {real}; patching it would change that tree",
            f"patch that tree itself with {option('--path', os.path.dirname(real))}, or install LMCache as a wheel",
            path,
            real,
        )


def _installation(
    search: Search, *, root: str, layout: Layout, info: DistInfo | None, record: str | None, state: str
) -> Installation:
    known = search.interpreter
    version = known.version if known else _version_in(root) or (info.python if info else None)
    return Installation(
        package=search.package,
        version=info.version if info else "",
        root=Path(root),
        layout=layout,
        dist_info=Path(info.path) if info else None,
        record=Path(record) if record else None,
        state_dir=Path(state, "gaudi-patch"),
        python=known.executable if known else None,
        python_version=version,
        cache_tag=known.cache_tag if known else f"cpython-{version[0]}{version[1]}" if version else None,
        pycache_prefix=search.pycache_prefix,
        own_interpreter=known.own if known else False,
        prefix=known.prefix if known else None,
        how=search.how,
        warnings=tuple(search.warnings),
        image_root=Path(search.image_root) if search.image_root else None,
    )


def _version_in(path: str) -> tuple[int, int] | None:
    """Return (3, 11) for .../lib/python3.11/site-packages."""
    match = re.search(r"/python(\d)\.(\d+)/[^/]+$", path)
    return (int(match[1]), int(match[2])) if match else None
