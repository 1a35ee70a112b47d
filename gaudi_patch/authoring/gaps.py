"""Find gaps in the smoke checks of a port, which a maintainer has to review."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from packaging.version import InvalidVersion, Version

from gaudi_patch.series.manifest import Capability, Patch
from gaudi_patch.smoke.outcome import LevelResult

if TYPE_CHECKING:
    import git

#: Device calls in a form that an HPU does not support.
_CALL = re.compile(
    r"torch\.cuda\b|\.cuda\(|[\"']cuda:"
    r"|(torch_dev\w*|torch_module\w*(\(\))?|getattr\(torch,.*\)|stream)\."
    r"(synchronize|set_device|current_device|get_device_properties|Stream|Event|stream|current_stream)\("
)
#: Modules of other devices, which an HPU does not run.
_FOREIGN = re.compile(r"platform/devices/(?!hpu/)|/(cuda|npu|xpu|musa)\w*(/|\.py$)|/(sglang|tensorrt)")


class Gap(NamedTuple):
    """A capability claimed by the new series, and the levels that check it but did not pass here."""

    capability: str
    missing: tuple[str, ...]

    def __str__(self) -> str:
        return f"not passed here: {', '.join(self.missing)}" if self.missing else "no smoke level checks it"


class Call(NamedTuple):
    """A line of the new release that the old one lacks."""

    file: str
    line: int
    text: str


def gaps(capabilities: Iterable[Capability], smoked: Sequence[LevelResult]) -> list[Gap]:
    """Return the capabilities carried over from the old series but not proved for the new one."""
    passed = {level.level for level in smoked if level.status == "passed"}
    passed -= {level.level for level in smoked if level.status != "passed"}
    found = [
        (capability, tuple(name for name in capability.smoke if name not in passed)) for capability in capabilities
    ]
    return [Gap(capability.id, missing) for capability, missing in found if missing or not capability.smoke]


def device_calls(repo: git.Repo, old: str, new: str) -> list[Call]:
    """Return the device calls added between two pristine releases, not counting lines that moved."""
    diff = repo.git.diff("--no-color", "--no-ext-diff", "--unified=0", old, new, "--", "*.py")
    gone: set[str] = set()
    come: list[Call] = []
    file, line = "", 0
    for text in diff.split("\n"):
        if text.startswith("+++ b/"):
            file = text[6:]
        elif text.startswith("@@ "):
            line = int(re.split(r"[ ,]", text.split("+", 1)[1])[0])
        elif text.startswith("-"):
            gone.add(text[1:].strip())
        elif text.startswith("+"):
            if _CALL.search(text.split("#", 1)[0]) and not _FOREIGN.search(file):
                come.append(Call(file, line, text[1:].strip()))
            line += 1
    return [call for call in come if call.text not in gone]


def outdated(patches: Iterable[Patch], release: str) -> list[str]:
    """Return the patches whose remove_when names a range of releases without ``release``."""
    return [patch.name for patch in patches if _excludes(patch.remove_when, release)]


def _excludes(text: str, release: str) -> bool:
    match = re.search(r"LMCache (\d\S*)(?: to (\d\S*))?$", text)
    if match is None:
        return False
    try:
        first, last = Version(match[1]), Version(match[2] or match[1])
    except InvalidVersion:
        return False
    return not first <= Version(release) <= last
