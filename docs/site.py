"""Pages of the documentation site that are kept elsewhere, or made from the program itself (hooks of MkDocs)."""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
GUIDES = ROOT / "gaudi_patch" / "guides"
#: Files of the repository that are pages, by the page's place on the site.
PAGES = {
    "index.md": "README.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
    "security.md": "SECURITY.md",
    "emulator.md": "gaudi_patch/emulator/README.md",
    "container.md": "gaudi_patch/container/README.md",
    **{f"guides/{file.name}": f"gaudi_patch/guides/{file.name}" for file in sorted(GUIDES.glob("*.md"))},
}
SCHEMAS = {
    "--json of every command": "gaudi_patch/output/schema.json",
    "the attestation of apply --report": "gaudi_patch/attestation/schema.json",
    "the predicate of an in-toto statement": "gaudi_patch/attestation/predicate.schema.json",
}
#: The first line of a block of code whose language is followed by words for the tests, such as ``bash run``.
_WORDS = re.compile(r"^( *```\w+) [^\n`]*$", re.MULTILINE)
_LINK = re.compile(r"\[([^\]]+)\]\((?!https?:|mailto:|#)([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not below docs/."""
    made = {place: (ROOT / name).read_text(encoding="utf-8") for place, name in PAGES.items()}
    made["reference/commands.md"] = commands()
    made["reference/exit-codes.md"] = exit_codes()
    made["reference/json.md"] = schemas()
    for place, text in made.items():
        files.append(File.generated(config, place, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links between files of the repository at their pages; what is no page keeps its words alone."""
    here = page.file.src_uri
    source = PAGES.get(here, f"docs/{here}")
    pages = {name: place for place, name in PAGES.items()}

    def link(match: re.Match[str]) -> str:
        words, target, anchor = match[1], match[2], match[3] or ""
        if files.get_file_from_path(posixpath.normpath(posixpath.join(posixpath.dirname(here), target))):
            return match[0]
        name = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        place = pages.get(name) or (name.removeprefix("docs/") if name.startswith("docs/") else "")
        if not place or files.get_file_from_path(place) is None:
            if not (ROOT / name).exists():
                raise FileNotFoundError(f"{source}: {target} is no file of the repository")
            return f"{words} (`{name}`)" if words.strip("`") != name else f"`{name}`"
        return f"[{words}]({posixpath.relpath(place, posixpath.dirname(here) or '.')}{anchor})"

    return _WORDS.sub(r"\1", _LINK.sub(link, markdown))


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Refuse a page on which a block of code was taken for prose: then all prose after it would be code."""
    if "```" in html:
        block = html.partition("```")[2][:60]
        raise ValueError(f"{page.file.src_uri}: a block of code is not rendered as one: {block!r}")
    return html


def commands() -> str:
    """Return the help of every command, as the program prints it."""
    from typer.main import get_command

    from gaudi_patch import cli

    parts = ["# Commands\n\nWhat `gaudi-patch COMMAND --help` prints.\n"]
    for names, text in _helps(get_command(cli.app), ("gaudi-patch",), None):
        parts.append(f"## {' '.join(names)}\n\n```text\n{text.rstrip()}\n```\n")
    return "\n".join(parts)


def _helps(  # click's own classes, whichever click typer uses
    command: Any,  # noqa: ANN401
    names: tuple[str, ...],
    parent: Any,  # noqa: ANN401
) -> Iterator[tuple[tuple[str, ...], str]]:
    context = command.make_context(names[-1], [], parent=parent, resilient_parsing=True)
    context.max_content_width = 100
    yield names, command.get_help(context)
    if hasattr(command, "list_commands"):
        for name in command.list_commands(context):
            yield from _helps(command.get_command(context, name), (*names, name), context)


def exit_codes() -> str:
    """Return the README's table, with what scripts match on beside it."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    table = readme.partition("## Exit codes\n")[2].partition("\n## ")[0]
    return (
        "# Exit codes\n\nThe same for every command.\n"
        f"{table}\nWith `--json`, each error has a stable `code` beside them: see [JSON](json.md).\n"
        "What each fault leaves, and what to type next: [faults](faults.md).\n"
    )


def schemas() -> str:
    """Return the JSON schemas as they are shipped."""
    parts = ["# JSON\n\nJSON Schema, draft 2020-12. `gaudi-patch --json-schema` and `attest --schema` print them.\n"]
    for title, name in SCHEMAS.items():
        text = json.dumps(json.loads((ROOT / name).read_text(encoding="utf-8")), indent=2)
        parts.append(f"## {title[0].upper()}{title[1:]}\n\n```json\n{text}\n```\n")
    return "\n".join(parts)
