"""The log of a GitLab job: a command's output is one section, followed by its warnings and errors.

Format: https://docs.gitlab.com/ci/jobs/job_logs/#custom-collapsible-sections
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

from gaudi_patch.errors import Exit
from gaudi_patch.output.escape import visible
from gaudi_patch.output.github import pending
from gaudi_patch.output.plain import all_plain
from gaudi_patch.output.result import Result


def section(result: Result) -> str:
    """Return the plain lines of ``result`` between section markers, collapsed if nothing failed."""
    name = "gaudi_patch_" + re.sub(r"\W+", "_", result.command)
    notes = list(_notes(result))
    folded = "" if result.errors or notes else "[collapsed=true]"
    now = int(time.time())
    title = f"gaudi-patch {result.command}: exit {int(result.exit)}"
    return (
        f"\x1b[0Ksection_start:{now}:{name}{folded}\r\x1b[0K{title}\n"
        f"{all_plain(result.blocks)}"
        f"\x1b[0Ksection_end:{now}:{name}\r\x1b[0K\n" + "".join(f"\x1b[1;33mwarning:\x1b[0m {note}\n" for note in notes)
    )


def _notes(result: Result) -> Iterator[str]:
    """Yield the warnings and errors, coloured: they follow the section, because a GitLab log has no annotations."""
    yield from (visible(f"{notice.code}: {notice.message}") for notice in result.notices)
    if result.exit is Exit.PENDING and not result.errors and not result.notices:
        yield pending(result).replace("\n", "; ")
