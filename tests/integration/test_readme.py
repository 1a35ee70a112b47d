"""The README's sample of output matches the commands' output."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.scripts import readme


def masked(text: str) -> list[str]:
    """Return the parts that are the same in every run, without times, counts, and levels omitted from short runs."""
    text = re.sub(r"\n {4,}", " ", text)  # a value that continues on the next line
    text = re.sub(r"\d{4}-\d\d-\d\dT[\d:]+Z", "TIME", text)
    text = text.replace("engine, imports, kernels", "LEVELS").replace("imports, kernels, engine", "LEVELS")
    text = re.sub(r"(passed: )imports\b", r"\1LEVELS", text)
    return re.sub(r"\d+ (?:comparisons|files)|[\d.]+ s$|\d+ of \d+", "N", text, flags=re.MULTILINE).splitlines()


@pytest.mark.wheels
@pytest.mark.torch
@pytest.mark.usefixtures("torch_python")
def test_the_sample_in_the_readme_is_what_the_commands_print(tmp_path: Path) -> None:
    """With one smoke level, or with all levels under GAUDI_PATCH_TEST_FULL=1."""
    levels = "" if os.environ.get("GAUDI_PATCH_TEST_FULL") else "imports"
    assert masked(readme.sample(tmp_path, levels)) == masked(readme.shown())


@pytest.mark.parametrize("old", ["pristine:", "exit 10", "/opt/venv", "by their sha256", "as attested"])
def test_the_sample_is_masked_no_more_than_it_must(old: str) -> None:
    shown = readme.shown()
    assert old in shown
    assert masked(shown.replace(old, "otherwise")) != masked(shown)
