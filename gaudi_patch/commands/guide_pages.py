"""`guide`: the guides that gaudi-patch carries."""

from __future__ import annotations

from gaudi_patch import guides
from gaudi_patch.errors import Exit, GaudiPatchError
from gaudi_patch.output.report import Markdown, Result, Table, Text


def list_guides() -> Result:
    """Every guide, with what it is about."""
    found = [guides.read(name) for name in guides.NAMES]
    return Result(
        "guide",
        data={"guides": [{"name": one.name, "title": one.title, "summary": one.summary} for one in found]},
        blocks=[
            Table(("guide", "about"), [(one.name, one.summary) for one in found]),
            Text("next: gaudi-patch guide NAME", "next"),
        ],
    )


def guide(name: str) -> Result:
    """One guide: rendered on a terminal, Markdown elsewhere."""
    if name not in guides.NAMES:
        hint = f"guides: {', '.join(guides.NAMES)}"
        raise GaudiPatchError(Exit.USAGE, "unknown-guide", f"there is no guide {name!r}", hint)
    one = guides.read(name)
    data = {"name": one.name, "title": one.title, "summary": one.summary, "markdown": one.markdown}
    return Result("guide", data=data, blocks=[Markdown(one.markdown)])
