"""The log of a GitLab job: what a command shows is one section, its errors stand below it.

Format: https://docs.gitlab.com/ci/jobs/job_logs/#custom-collapsible-sections
"""

from __future__ import annotations

import re
import time

from gaudi_patch.output.plain import all_plain
from gaudi_patch.output.result import Result


def section(result: Result) -> str:
    """Return the plain lines of ``result`` between the marks of a section, folded where nothing failed."""
    name = "gaudi_patch_" + re.sub(r"\W+", "_", result.command)
    folded = "" if result.errors else "[collapsed=true]"
    now = int(time.time())
    title = f"gaudi-patch {result.command}: exit {int(result.exit)}"
    return (
        f"\x1b[0Ksection_start:{now}:{name}{folded}\r\x1b[0K{title}\n"
        f"{all_plain(result.blocks)}"
        f"\x1b[0Ksection_end:{now}:{name}\r\x1b[0K\n"
    )
