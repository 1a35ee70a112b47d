"""What to type where gaudi-patch cannot go on by itself: a state or journal that is of no use any more."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from gaudi_patch.engine.guard import journal_home
from gaudi_patch.errors import GaudiPatchError
from gaudi_patch.target.installation import Installation, Layout


def reinstall(installation: Installation, specifier: str = "") -> str:
    """Return the command line that brings the files of the release back, quoted for the shell.

    ``specifier``: of another version than the one that is installed.
    """
    if installation.layout in (Layout.EDITABLE, Layout.CHECKOUT):
        return shlex.join(["git", "-C", str(installation.root), "checkout", "--", installation.package])
    specifier = specifier or (f"=={installation.version}" if installation.version else "")
    release = f"{installation.package}{specifier}"
    if installation.python is None:
        # The only form that takes the place of what is there without its interpreter.
        words = ["pip", "install", "--upgrade", "--no-deps", "--target", str(installation.root), release]
    else:
        words = ["pip", "--python", str(installation.python), "install", "--force-reinstall", "--no-deps", release]
    return shlex.join(words)


@contextmanager
def way_out(installation: Installation) -> Iterator[None]:
    """Give errors of the block that only a new installation ends the commands that end them."""
    try:
        yield
    except GaudiPatchError as error:
        if not error.hint and error.code in ("state-damaged", "journal-damaged", "undo-failed", "third-state"):
            error.hint = _hint(error.code, installation)
        raise


def _hint(code: str, installation: Installation) -> str:
    pristine = f"`{reinstall(installation)}` brings the release back"
    home = _removal(journal_home(installation))
    git = installation.layout in (Layout.EDITABLE, Layout.CHECKOUT)
    if code == "state-damaged":
        return f"{pristine}, `{_removal(installation.state_dir)}` forgets the series" if git else pristine
    if code == "third-state":
        return f"{pristine}; to keep your edits instead, run {home}"
    return f"{pristine}, `{home}` forgets the interrupted run{_sweep(installation)}"


def _sweep(installation: Installation) -> str:
    """Return how to remove temporary files that only the journal knew by name, where there are any."""
    places = [installation.root / installation.package, installation.state_dir.parent]
    pattern = ".gaudi-patch-*.tmp"
    if not _any_below(places, pattern):
        return ""
    words = ["find", *map(str, places), "-name", pattern, "-type", "f", "-delete"]
    return f", `{shlex.join(words)}` its temporary files"


def _any_below(places: Iterable[Path], pattern: str) -> bool:
    try:
        return any(next(place.rglob(pattern), None) for place in places)
    except OSError:
        return True  # perhaps; the error that is being reported must not be lost over this


def _removal(path: Path) -> str:
    return shlex.join(["rm", "-rf", str(path)])
