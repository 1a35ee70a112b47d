"""The next command when gaudi-patch cannot proceed by itself: a state or journal is unusable."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from gaudi_patch.engine.guard import journal_home
from gaudi_patch.errors import GaudiPatchError
from gaudi_patch.target.installation import Installation, Layout
from gaudi_patch.target.invocation import reinstall_line


def reinstall(installation: Installation, specifier: str = "") -> str:
    """Return the command line that restores the release's files, quoted for the shell.

    ``specifier`` names another version than the installed one.
    """
    if installation.layout in (Layout.EDITABLE, Layout.CHECKOUT):
        return shlex.join(["git", "-C", str(installation.root), "checkout", "--", installation.package])
    specifier = specifier or (f"=={installation.version}" if installation.version else "")
    release = f"{installation.package}{specifier}"
    return reinstall_line(release, installation.python, installation.root)


@contextmanager
def way_out(installation: Installation) -> Iterator[None]:
    """Add commands to errors in the block that only a reinstallation can solve."""
    try:
        yield
    except GaudiPatchError as error:
        if not error.hint and error.code in ("state-damaged", "journal-damaged", "undo-failed", "third-state"):
            error.hint = _hint(error.code, installation)
        raise


def _hint(code: str, installation: Installation) -> str:
    pristine = f"`{reinstall(installation)}` restores the release"
    home = _removal(journal_home(installation))
    git = installation.layout in (Layout.EDITABLE, Layout.CHECKOUT)
    if code == "state-damaged":
        return f"{pristine}, `{_removal(installation.state_dir)}` forgets the series" if git else pristine
    if code == "third-state":
        return f"{pristine}; to keep your edits instead, run {home}"
    return f"{pristine}, `{home}` forgets the interrupted run{_sweep(installation)}"


def _sweep(installation: Installation) -> str:
    """Return how to remove temporary files known only to the journal; "" if there are none."""
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
        return True  # unknown; this must not hide the error being reported


def _removal(path: Path) -> str:
    return shlex.join(["rm", "-rf", str(path)])
