"""docs/architecture.md: everything that it names exists, and the life of one `apply` takes ten modules."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "architecture.md").read_text()


def test_every_module_that_the_document_names_is_there() -> None:
    named = set(re.findall(r"`((?:[a-z_]+/)*[a-z_]+\.py)`", TEXT))
    assert len(named) > 50
    assert {name for name in named if not (ROOT / "gaudi_patch" / name).is_file()} == set()


def test_the_life_of_one_apply_goes_through_ten_modules() -> None:
    life = TEXT.partition("## The life of one `apply`")[2].partition("\n## ")[0]
    steps = re.findall(r"^(\d+)\. `([a-z_/]+\.py)`", life, re.MULTILINE)
    assert [int(number) for number, _ in steps] == list(range(1, 11))
    assert len({name for _, name in steps}) == 10
