"""Judge a run by the tree that it left: by the contract of exit codes, and by its messages.

No code of gaudi_patch is used. A finding is one of the kinds in ``KINDS`` and a sentence.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tests.rig.place import DIST_INFO, EDITED, Place
from tests.rig.trace import HUNG, Done
from tests.rig.tree import Node, Tree

#: third: a file is in neither its old nor its new state, or both are mixed without a journal. lie: exit code or
#: messages contradict the tree. outside: a file of someone else was written. dead-end: the next command does not reach
#: a whole state. litter: something is left behind that neither a message nor the journal names.
KINDS = ("third", "lie", "outside", "dead-end", "litter", "bug", "hang")

JOURNAL = f"site/{DIST_INFO}/gaudi-patch.journal/"

#: Exit codes that promise that nothing was changed: refused, usage, not found, environment.
UNCHANGED = frozenset({1, 2, 3, 4})
#: Ended by a signal: nothing was changed, or everything was and the messages say so.
INTERRUPTED = frozenset({129, 130, 131, 143})
HUMAN = 6
BUG = 70

_NOTHING = re.compile(
    r"nothing was (changed|written)|left as it was|(everything|all changes) (was|were) (put|rolled) back"
    r"|no file is left half-way"
)
_DONE = re.compile(
    r"verified from disk|^(applied|rolled back) series|series \S+ is (applied|rolled back)", re.MULTILINE
)
_KEPT = re.compile(r"journal is kept")


class Finding(NamedTuple):
    kind: str
    text: str


class View(NamedTuple):
    """A tree as read: its state (None: unknown), temporary files, and whether a journal exists."""

    tree: Tree
    state: str | None
    passing: tuple[str, ...]
    journal: bool

    @property
    def whole(self) -> bool:
        return self.state is not None and not self.passing


def is_passing(name: str) -> bool:
    """Return whether a transaction creates and removes a file of this name."""
    passing = ".gaudi-patch-" in name and not name.startswith("saved/")
    return passing or name.startswith(JOURNAL) or name.endswith(".tmp")


def view(place: Place) -> View:
    tree = place.ours()
    settled = _settled(tree)
    state = next((name for name, trees in place.states.items() if settled in trees), None)
    return View(tree, state, tuple(name for name in tree if is_passing(name)), f"{JOURNAL}journal.json" in tree)


@dataclass(frozen=True)
class Case:
    """The request: ``goal`` is the state after success, ``states`` are those that may occur on the way."""

    place: Place
    goal: str
    states: Sequence[str]


def judge(case: Case, before: View, done: Done, after: View) -> list[Finding]:
    """Return the faults of a run into which a fault was injected."""
    return [
        *_third_states(case, before, after),
        *_outside(case.place, done),
        *_code(case, before, done, after),
        *_words(case, before, done, after),
        *_document(case, before, done, after),
    ]


def _allowed(place: Place) -> dict[str, set[tuple[str, bytes, int]]]:
    allowed: dict[str, set[tuple[str, bytes, int]]] = {}
    for trees in place.states.values():
        for tree in trees:
            for name, node in tree.items():
                allowed.setdefault(name, set()).add(node.content)
    return allowed


def _third_states(case: Case, before: View, after: View) -> list[Finding]:
    allowed = _allowed(case.place)
    found = []
    for name, node in after.tree.items():
        if name.startswith("saved/"):
            if ".gaudi-patch-saved-" in name and not name.endswith(".tmp") and node.data != EDITED:
                found.append(Finding("third", f"{name} is no whole copy of the edited file ({len(node.data)} bytes)"))
        elif is_passing(name) or name.endswith("/"):
            continue
        elif node.content not in allowed.get(name, set()):
            found.append(Finding("third", f"{name} is as in no state: {_shown(node)}"))
    if after.state is None and not after.journal:
        near = min(
            (
                (len(off), name, off)
                for name, trees in case.place.states.items()
                for tree in trees
                if (off := _off(tree, after)) is not None
            )
        )
        found.append(Finding("third", f"mixed, and no journal: nearest is {near[1]}, but for {', '.join(near[2][:6])}"))
    if "edited" in case.states and not _has_the_edit(case.place, after):
        found.append(Finding("third", "the edited file is lost: neither in its place, nor saved, nor in the journal"))
    return found


def _shown(node: Node) -> str:
    return f"{node.kind}, {len(node.data)} bytes, mode {node.mode:04o}"


def _settled(tree: Tree) -> Tree:
    return {name: node for name, node in tree.items() if not is_passing(name) and not name.startswith("saved/")}


def _off(tree: Tree, after: View) -> list[str]:
    settled = _settled(after.tree)
    return [name for name in sorted({*tree, *settled}) if tree.get(name) != settled.get(name)]


def _has_the_edit(place: Place, after: View) -> bool:
    return any(
        node.data == EDITED or (name == f"{JOURNAL}undo" and EDITED in node.data) for name, node in after.tree.items()
    )


def _outside(place: Place, done: Done) -> list[Finding]:
    """Find writes outside by the trace; the caller compares the bytes."""
    own = [place.site / "lmcache", place.site / DIST_INFO, place.top / "saved"]
    strange = {
        path
        for path in done.written
        if not any(path.is_relative_to(one) for one in own) and not str(path).startswith(("pipe:", "/dev/", "socket:"))
    }
    return [Finding("outside", f"{path} was written") for path in sorted(strange)]


def _unchanged(before: View, after: View) -> bool:
    """Return whether nothing was changed, or only a run killed earlier was undone."""
    if after.journal:
        return before.journal and before.tree == after.tree
    return after.state is not None if before.journal or before.state is None else after.state == before.state


def _code(case: Case, before: View, done: Done, after: View) -> list[Finding]:
    code = done.code
    if code == HUNG:
        return [Finding("hang", "ended after the time limit")]
    if code < 0:
        return []  # killed: the next command is what counts
    if code == 0:
        if after.state != case.goal or after.journal:
            return [Finding("lie", f"exit 0, but the tree is {_is(after)}")]
        if after.passing and "could not remove" not in done.err + done.out:
            return [Finding("litter", f"exit 0 leaves {', '.join(after.passing)}")]
    elif code in INTERRUPTED and after.state == case.goal and not after.journal and _says_done(done):
        pass
    elif code in UNCHANGED | INTERRUPTED:
        if not _unchanged(before, after):
            return [Finding("lie", f"exit {code}, but the tree was {_is(before)} and is {_is(after)}")]
        if [name for name in after.passing if name not in before.tree] and not _tells(done, after.passing):
            return [Finding("litter", f"exit {code} leaves {', '.join(after.passing)}")]
    elif code == HUMAN:
        text = done.err + done.out
        unnamed = [name for name in _not_put_back(case, after) if name.removeprefix("site/").rstrip("/") not in text]
        if after.journal and unnamed:
            return [Finding("lie", f"exit 6 does not name {', '.join(unnamed[:6])}")]
        if after.whole and not before.journal and not (after.state == case.goal and _says_done(done)):
            return [Finding("lie", f"exit 6, but the tree is whole: {after.state}")]
    elif code == BUG:
        return [Finding("bug", "exit 70")]
    else:
        return [Finding("lie", f"exit {code} is not one for this")]
    return []


def _says_done(done: Done) -> bool:
    return _DONE.search(f"{done.out}\n{done.err}") is not None


def _not_put_back(case: Case, after: View) -> list[str]:
    """Return the files of the package, and RECORD, that differ from before the transaction."""
    nearest = min((_off(tree, after) for tree in case.place.states[case.states[0]]), key=len)
    return [
        name
        for name in nearest
        if (name.startswith("site/lmcache/") and not name.endswith(".pyc")) or name.endswith("/RECORD")
    ]


def _tells(done: Done, passing: Sequence[str]) -> bool:
    text = done.err + done.out
    return (
        "could not remove" in text or any(Path(name).name in text for name in passing) or "gaudi-patch.journal" in text
    )


def _is(seen: View) -> str:
    return (
        f"{seen.state or 'mixed'}{' with a journal' if seen.journal else ''}{' and leftovers' if seen.passing else ''}"
    )


def _words(case: Case, before: View, done: Done, after: View) -> list[Finding]:
    text = f"{done.out}\n{done.err}"
    found = []
    if "Traceback" in text:
        found.append(Finding("lie", "a traceback"))
    if (said := _NOTHING.search(text)) and not _unchanged(before, after):
        found.append(Finding("lie", f"{said[0]!r}, but the tree was {_is(before)} and is {_is(after)}"))
    if (said := _DONE.search(text)) and after.state != case.goal:
        found.append(Finding("lie", f"{said[0]!r}, but the tree is {_is(after)}"))
    if (said := _KEPT.search(text)) and not after.journal:
        found.append(Finding("lie", f"{said[0]!r}, but there is none"))
    return found


def _document(case: Case, before: View, done: Done, after: View) -> list[Finding]:
    """Check that the object of --json agrees with the exit code and with the tree."""
    if not done.out.startswith("{"):
        return []
    try:
        document = json.loads(done.out)
    except ValueError:
        return [Finding("lie", "--json prints no JSON")] if done.code >= 0 else []
    data, found = document["data"], []
    if done.code >= 0 and document["exit_code"] != done.code:
        found.append(Finding("lie", f"exit {done.code}, but exit_code is {document['exit_code']}"))
    if (document["status"] == "ok") != (done.code == 0) and done.code >= 0:
        found.append(Finding("lie", f"exit {done.code}, but status is {document['status']}"))
    if data.get("changed") and after.state != case.goal:
        found.append(Finding("lie", f"data.changed, but the tree is {_is(after)}"))
    patched = data.get("state") == "patched"
    if "state" in data and after.state is not None and patched != (after.state in ("new", "old")):
        found.append(Finding("lie", f"data.state is {data['state']}, but the tree is {_is(after)}"))
    return found
