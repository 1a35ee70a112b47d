"""The first line of a command's output: the installation's state, in the five words for it."""

from __future__ import annotations

from gaudi_patch.engine.plan import State
from gaudi_patch.engine.situation import Situation
from gaudi_patch.errors import GaudiPatchError
from gaudi_patch.output.report import Block, Fields, Text
from gaudi_patch.output.wrapping import Whole
from gaudi_patch.series.manifest import Kind

#: The wording for one file, and for several.
_WORDS = {
    State.MODIFIED: ("is neither pristine nor patched", "are neither pristine nor patched"),
    State.MISSING: ("is missing", "are missing"),
    State.PARTIAL: ("is patched", "are patched"),
}


def headline(situation: Situation, fault: GaudiPatchError | None = None) -> Text:
    """Return the state in one line. Reasons and next steps are left to the error."""
    if fault is not None:
        return Text(_refused(situation, fault), "bad")
    if situation.state is None:
        return Text(f"nothing to do: {situation.verdict.reason}", "good")
    if situation.built is not None:
        text = f"patched when the wheel was built, with series {situation.built.series}: every file has its hash"
        return Text(text, "good")
    if situation.state is State.PATCHED:
        return Text("patched: every file has the hash that the series gives it", "good")
    name = situation.series.id if situation.series else ""
    if situation.state is State.OUTDATED:
        return Text(f"outdated: patched with different patches than series {name} has here", "pending")
    return Text(f"pristine: as released, not patched; series {name} would apply", "pending")


def _refused(situation: Situation, fault: GaudiPatchError) -> str:
    total = len(situation.files)
    if fault.code == "interrupted":
        return "interrupted: an earlier run was killed and has not been undone yet"
    if fault.code == "locked":
        return "busy: another run is at work here"
    if fault.code == "stale-bytecode":
        return "patched on disk, but Python would run something else"
    if situation.state in (State.MODIFIED, State.MISSING, State.PARTIAL):
        wanted = State.PATCHED if situation.state is State.PARTIAL else situation.state
        count = sum(file.state is wanted for file in situation.files)
        return f"{situation.state.value}: {count} of {total} files {_WORDS[situation.state][count != 1]}"
    if situation.verdict.kind is Kind.REFUSED:
        return "refused: this release cannot be patched"
    if situation.verdict.kind is Kind.UNKNOWN:
        return "unknown: there is no series for this release"
    return f"{situation.state.value if situation.state else 'unknown'}: in no known state"


def where(situation: Situation) -> Block:
    """Return the version and path of this LMCache."""
    installation = situation.installation
    version = installation.version or "of unknown version"
    return Fields([(installation.package, Whole(f"{version} in {installation.root}"))])
