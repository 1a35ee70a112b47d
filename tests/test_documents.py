"""Rules for README, guides and the reference: sentences read once, the project's words, true tables."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "gaudi_patch" / "guides").glob("*.md"))]
ALL_DOCUMENTS = [
    *DOCUMENTS,
    *sorted((ROOT / "docs").rglob("*.md")),
    *(ROOT / name for name in ("SECURITY.md", "CONTRIBUTING.md")),
    *(ROOT / "gaudi_patch" / room / "README.md" for room in ("container", "emulator")),
]
LONGEST = 30  # words in a sentence, docs/style.md
#: Words of docs/style.md's table that have no other meaning here, so that a program can judge them.
NOT_OUR_WORDS = re.compile(
    r"(?<![-\w])(folders?|lazy rules|eager rules|kept aside|put back|none of ours|something else than|mend"
    r"|sets? of rules|unless it is told to|when told to)(?![-\w])",
    re.IGNORECASE,
)
SOURCES = re.compile(r"\b(GAUDI_PATCH_[A-Z_]*[A-Z]|HPU_EMULATOR_(?:CACHE|DEVICE|HOST|MEMORY_BYTES))\b")


def prose(text: str) -> Iterator[tuple[int, str]]:
    """Yield the paragraphs and list items of Markdown with their line numbers, without code, tables and headings."""
    bare = re.sub(r"^ *```.*?^ *```", lambda code: "\n" * code[0].count("\n"), text, flags=re.MULTILINE | re.DOTALL)
    start, kept = 0, list[str]()
    for number, line in enumerate([*bare.splitlines(), ""], 1):
        ends = not line.strip() or re.match(r"\s*([-*#|<]|\d+\.\s)", line)
        if ends and kept:
            yield start, " ".join(kept)
            kept = []
        if line.strip() and not re.match(r"\s*[#|<]", line):
            start = start if kept else number
            kept.append(line.strip())


def sentences(paragraph: str) -> list[str]:
    """Split at the end of each sentence; a colon or semicolon does not end one.

    Text in backticks counts as one word, and a link's target as none.
    """
    text = re.sub(r"`[^`]*`", "code", paragraph)
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
    return re.split(r"(?<=[.!?])\s+(?=\S)", text)


@pytest.mark.parametrize("file", ALL_DOCUMENTS, ids=lambda file: str(file.relative_to(ROOT)))
def test_no_sentence_is_too_long_to_be_read_once(file: Path) -> None:
    long = [
        f"{file.name}:{line}: {len(sentence.split())} words: {sentence}"
        for line, paragraph in prose(file.read_text())
        for sentence in sentences(paragraph)
        if len(sentence.split()) > LONGEST
    ]
    assert long == []


@pytest.mark.parametrize("file", [*DOCUMENTS, *sorted((ROOT / "docs").rglob("*.md"))], ids=lambda file: file.name)
def test_documents_use_the_words_of_the_style(file: Path) -> None:
    if file.name == "style.md":
        pytest.skip("it lists the words that are not ours")
    wrong = [f"{file.name}:{line}: {word[0]}" for line, text in prose(file.read_text())
             for word in NOT_OUR_WORDS.finditer(re.sub(r"`[^`]*`", "", text))]  # fmt: skip
    assert wrong == []


def torn(text: str) -> list[int]:
    """Return the lines of paragraphs whose marks would show: unclosed emphasis, a space inside a parenthesis."""
    bare = ((line, re.sub(r"`[^`]*`", "code", paragraph)) for line, paragraph in prose(text))
    return [line for line, text in bare if text.count("**") % 2 or "***" in text or re.search(r"\(\s|\s\)", text)]


@pytest.mark.parametrize("file", [*DOCUMENTS, *sorted((ROOT / "docs").rglob("*.md"))], ids=lambda file: file.name)
def test_emphasis_and_parentheses_of_documents_are_closed_where_they_should_be(file: Path) -> None:
    assert torn(file.read_text()) == []
    assert torn("***Gaudi** is\n\n**A\n\nas in (\n`smoke`).\n\n**as** (`x`) `( **`") == [1, 3, 5]


def texts(source: str) -> Iterator[tuple[int, str]]:
    """Yield a module's docstrings and messages with their lines, without code in backticks or programs in strings."""
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and " " in node.value.strip()
            and not is_program(node.value)
        ):
            yield node.lineno, re.sub(r"``[^`]*``|`[^`]*`", "", node.value)


def is_program(text: str) -> bool:
    try:
        return "\n" in text and any(isinstance(line, ast.Import | ast.ImportFrom) for line in ast.parse(text).body)
    except SyntaxError:
        return False


@pytest.mark.parametrize("room", ["gaudi_patch", "patches/runtime"])
def test_docstrings_and_messages_use_the_words_of_the_style(room: str) -> None:
    wrong = [
        f"{file.relative_to(ROOT)}:{line}: {word[0]}"
        for file in sorted((ROOT / room).rglob("*.py"))
        for line, text in texts(file.read_text())
        for word in NOT_OUR_WORDS.finditer(text)
    ]
    assert wrong == []


def unexplained(source: str) -> list[int]:
    """Return the lines that suppress a linter rule without a reason.

    A line has its reason after the codes; a whole file may also have it in a line "# Why: ..." below.
    """
    lines = source.splitlines()
    bare = re.compile(r"# (?:noqa|ruff: noqa)\b(?:: *[A-Z]+[0-9]+(?:, ?[A-Z]+[0-9]+)*)?[\s-]*$")
    return [
        number
        for number, line in enumerate(lines, 1)
        if bare.search(line)
        and not (line.startswith("# ruff:") and "".join(lines[number : number + 1]).startswith("# Why: "))
    ]


@pytest.mark.parametrize("room", ["gaudi_patch", "patches/runtime"])
def test_what_the_linter_is_told_to_pass_over_has_its_reason(room: str) -> None:
    files = sorted((ROOT / room).rglob("*.py"))
    assert [f"{file.relative_to(ROOT)}:{line}" for file in files for line in unexplained(file.read_text())] == []


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("import os  # noqa: F401\n", [1]),
        ("import os  # noqa: F401, S104\n", [1]),
        ("import os  # noqa\n", [1]),
        ("import os  # noqa: F401 - read by others\n", []),
        ("# ruff: noqa: ANN401, PTH118\nimport os\n", [1]),
        ("# ruff: noqa: ANN401 --\nimport os\n", [1]),
        ("# ruff: noqa\nimport os\n", [1]),
        ("# ruff: noqa: ANN401 -- objects of others\nimport os\n", []),
        ("# ruff: noqa: PTH118\n# Why: strings\n", []),
    ],
)
def test_a_missing_reason_is_seen(source: str, lines: list[int]) -> None:
    assert unexplained(source) == lines


def test_every_environment_variable_of_the_program_is_in_the_reference() -> None:
    sources = [*(ROOT / "gaudi_patch").rglob("*.py"), *(ROOT / "patches" / "runtime").rglob("*.py")]
    used = {name for file in sources for name in SOURCES.findall(file.read_text())}
    settings = (ROOT / "patches/runtime/lmcache/gaudi/settings.py").read_text()
    (listed,) = re.findall(r"Read LMCACHE_GAUDI_\{([A-Z_,]+)\}", settings)
    used |= {f"LMCACHE_GAUDI_{name}" for name in listed.split(",")} | {"LMCACHE_GAUDI_PIN_MIB"}
    reference = (ROOT / "docs/reference/environment.md").read_text()
    assert {name for name in used if f"`{name}`" not in reference} == set()


def test_every_environment_variable_of_the_tests_is_in_contributing() -> None:
    files = [ROOT / ".ci" / "run", *sorted((ROOT / "tests").rglob("*.py"))]
    read = {name for file in files for name in re.findall(r"GAUDI_PATCH_TEST_[A-Z_]*[A-Z]", file.read_text())}
    listed = re.findall(r"^\| `(GAUDI_PATCH_TEST_[A-Z_]+)=", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    assert len(read) >= 8
    assert sorted(listed) == sorted(read)


#: Files that a reader writes by a document, and one of LMCache's own.
_OTHERS_FILES = {
    "gaudi_patch/commands/where.py",
    "tests/commands/test_where.py",
    "patches/site/0.5.5.patch",
    "tests/v1/test_token_database.py",
}


def untrue_names(text: str) -> list[str]:
    """Return the files and scripts of this repository that a document names and that do not exist.

    A script's options are looked for in its source.
    """
    named = re.findall(
        r"(?<![\w/.])(?:tests|gaudi_patch|patches|docs)/[\w./-]+\.(?:py|md|toml|lock|json|ya?ml|sh|patch)\b", text
    )
    wrong = [name for name in named if not (ROOT / name).exists() and name not in _OTHERS_FILES]
    for module, arguments in re.findall(r"python -m (tests[\w.]+)([^`\n]*)", text):
        place = ROOT / module.replace(".", "/")
        file = place / "__main__.py" if place.is_dir() else place.with_suffix(".py")
        source = file.read_text() if file.is_file() else None
        options = re.findall(r"--[a-z-]+", arguments)
        wrong += [module] if source is None else [f"{module} {one}" for one in options if f'"{one}"' not in source]
    return wrong


@pytest.mark.parametrize("file", ALL_DOCUMENTS, ids=lambda file: str(file.relative_to(ROOT)))
def test_files_and_scripts_that_a_document_names_exist(file: Path) -> None:
    assert untrue_names(file.read_text()) == []


def test_a_file_a_script_and_an_option_that_do_not_exist_are_noticed() -> None:
    text = "`docs/none.md`\n\n    python -m tests.none --x\n    python -m tests.rig --count 3 --none\n"
    assert untrue_names(text) == ["docs/none.md", "tests.none", "tests.rig --none"]


def test_every_guide_is_on_the_site() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text()
    guides = [file for file in DOCUMENTS if file.parent.name == "guides"]
    assert [file.name for file in guides if f"guides/{file.name}" not in navigation] == []


def test_the_readme_says_on_its_first_screen_what_has_not_been_done_and_stays_short() -> None:
    text = (ROOT / "README.md").read_text()
    assert "verified on an emulated HPU, never on Gaudi hardware" in "\n".join(text.splitlines()[:8])
    assert len(text.encode()) < 6400


def test_the_readme_asks_for_the_disk_space_that_the_demo_asks_for() -> None:
    from gaudi_patch.demo.needs import CUDA, ROOM
    from gaudi_patch.sizing.plan import GIB

    (asked,) = re.findall(r"(\d+) GiB of disk \((\d+) where", (ROOT / "README.md").read_text())
    assert asked == (f"{ROOM['torch'] / GIB:g}", f"{(ROOM['torch'] + CUDA) / GIB:g}")


def test_the_readme_has_no_link_that_an_index_page_would_break() -> None:
    """The project has no public address yet, so its files are named and not linked."""
    targets = re.findall(r"\]\(([^)]+)\)", (ROOT / "README.md").read_text())
    assert [target for target in targets if not target.startswith("https://")] == []


def test_the_readme_pairs_what_the_manifest_pairs() -> None:
    from gaudi_patch.commands.list import list_series
    from gaudi_patch.output.report import Table
    from gaudi_patch.series.manifest import load

    table = next(block for block in list_series(load()).blocks if isinstance(block, Table))
    rows = [f"| {lmcache} | {vllm} |" for lmcache, vllm, _ in table.rows if vllm != "none"]
    section = (ROOT / "README.md").read_text().partition("## What goes together\n")[2].partition("\n## ")[0]
    assert [line for line in section.splitlines() if line.startswith("| 0")] == rows


def test_the_judge_of_sentences_sees_what_is_too_long() -> None:
    """The judge's own test: code, tables and headings are not prose, and a long sentence is found even in a list."""
    long = " ".join(["word"] * 31)
    text = f"# {long}\n\n```\n{long}\n```\n| {long} |\n\n- {long}\n  word\n- short `{long}` one.\n"
    counts = [max(len(one.split()) for one in sentences(paragraph)) for _, paragraph in prose(text)]
    assert counts == [33, 4]
    assert len(sentences("One half: the other half; a third. Another one.")) == 2, "a colon ends no sentence"
