"""A guide that has a recipe's script copied to another host names every file that the script reads."""

from __future__ import annotations

import re
from collections.abc import Mapping

from gaudi_patch import guides
from tests.guides import parts
from tests.recipes.test_compose import recipe

#: What the guide to disaggregated serving has copied, by its own commands.
MIXED = recipe("mixed", ranks=8, storage="/mnt/lmcache").files
DISAGGREGATED = recipe("disaggregated", storage="lm://10.0.0.7:65432").files


def left_behind(statement: str, files: Mapping[str, str]) -> list[str]:
    """Return the files that a script named in ``statement`` reads, and that are not copied with it."""
    if "Copy the directory" in statement:
        return []
    named = {file for file in files if f"{file}`" in statement}
    read = {name for file in named for name in re.findall(r"\$here/([\w.]+)", files[file])}
    return sorted(read - named)


def statements(markdown: str) -> list[str]:
    """Return the paragraphs and list items in which something is copied."""
    text = re.sub(r"\n(?=[-|]|\d+\. )", "\n\n", parts.prose(markdown))
    return [" ".join(one.split()) for one in text.split("\n\n") if re.search(r"\bcopy\b", one, re.IGNORECASE)]


def test_what_a_script_reads_is_copied_with_it() -> None:
    found = statements(guides.read("disaggregated").markdown)
    assert any("`mi300x.sh`" in one for one in found)
    assert any("`decode.sh`" in one for one in found)
    assert [left_behind(one, files) for one in found for files in (MIXED, DISAGGREGATED)] == [[]] * 2 * len(found)


def test_a_file_that_is_left_behind_is_noticed() -> None:
    statement = "Copy `mixed/lmcache.yaml` to both hosts, and `mixed/gaudi.sh` to the Gaudi host."
    assert left_behind(statement, MIXED) == ["preflight.py"]
