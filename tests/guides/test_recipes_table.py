"""The comparison with the older recipes: every place that it names exists and covers the topic."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import pytest

from gaudi_patch import guides
from tests.guides import parts
from tests.support import environments
from tests.support.environments import EnvironmentUnavailableError
from tests.support.unavailable import unavailable

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "recipes.md"
TEXT = PAGE.read_text(encoding="utf-8")


def rows(text: str, columns: int) -> list[list[str]]:
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in row] for row in cells if len(row) == columns][1:]


def anchors(file: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and MkDocs make them."""
    heads = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", head.lower()).strip()) for head in heads}


def lost(text: str) -> list[str]:
    """Return the links whose targets do not exist."""
    found = []
    for target, anchor in re.findall(r"\]\(([^)#]+)#?([^)]*)\)", text):
        file = (PAGE.parent / target).resolve()
        if not file.is_file() or (anchor and anchor not in anchors(file)):
            found.append(f"{target}#{anchor}")
    return found


def test_every_subject_is_better_or_equal_and_stands_somewhere() -> None:
    subjects = rows(TEXT.partition("\n## ")[0], 3)
    assert len(subjects) >= 24
    for subject, here, where in subjects:
        assert re.match(r"(better: .|equal(: .|$))", here), subject
        assert re.search(r"\]\(", where), subject
    assert lost(TEXT) == []
    assert lost("[a](verification.md#no-such)[b](none.md)") == ["verification.md#no-such", "none.md#"]


def test_every_command_of_the_table_is_one() -> None:
    found = list(parts.commands(TEXT))
    assert len(found) >= 5
    for arguments in found:
        parts.parse(arguments)


def test_every_scenario_of_troubleshooting_is_a_section_of_the_guide() -> None:
    sections = set(re.findall(r"^### (.+)$", guides.read("troubleshooting").markdown, re.MULTILINE))
    scenarios = rows(TEXT.partition("\n## ")[2], 2)
    assert len(scenarios) == 16  # fourteen, one with three symptoms
    assert [place for _, place in scenarios if place not in sections] == []


@pytest.mark.wheels
@pytest.mark.parametrize("release", ["0.3.7", "0.4.2", "0.5.6"])
def test_lmcache_knows_what_a_request_can_set(release: str) -> None:
    try:
        wheel = environments.wheel(release, "3.11")
    except EnvironmentUnavailableError as error:
        unavailable(error)
    with zipfile.ZipFile(wheel) as archive:
        adapter, keys, config = (
            archive.read(f"lmcache/{name}.py").decode()
            for name in ("integration/vllm/vllm_v1_adapter", "utils", "v1/config")
        )
    named = guides.read("production").markdown
    for word, source in (
        ("lmcache.skip_save", adapter),
        ("LMCACHE_FORCE_SKIP_SAVE", adapter),
        ("lmcache.tag.", keys),
        ("priority_limit", config),
    ):
        assert word in named
        assert f'"{word}"' in source, word
