"""The table of nasty cases and of the tests that cover each. ``python -m tests.support.cases`` writes tests/CASES.md.

A test's docstring names the cases that it covers, as ``case_13``. Other tests that cover a case are listed here.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
TABLE = TESTS / "CASES.md"

#: Each case, and how it is handled.
CASES: dict[int, str] = {
    1: "killed in the middle of apply: the next run finds the journal and undoes it",
    2: "killed in rollback, and in recovery: recovered again, however often",
    3: "no space left while staging or journalling: nothing is changed",
    4: "quota, I/O error, read-only, stale handle, interrupted call: as no space",
    5: "power loss: data is durable before the rename, directories after; the journal goes last; success is read back",
    6: "read-only site-packages: exit 4; check and --dry-run still work",
    7: "another user's package: exit 4 with a hint; never written in place",
    8: "owner, group, mode and extended attributes are kept",
    9: "umask and set-gid directories do not change modes",
    10: "overlayfs: files are replaced one by one, directories never renamed",
    11: "SIGINT and SIGTERM undo; exit 130 and 143; no traceback",
    12: "a closed or full stdout changes neither the transaction nor the exit code",
    13: "hardlinks into an installer's cache: the other names are untouched",
    14: "a cache that was poisoned before: told from another build of the release by RECORD",
    15: "symbolic links into uv's cache: replaced by private files, restored as links",
    16: "a directory that is a link: refused where it leads out of the package",
    17: "a target that is a directory, FIFO, socket or dangling link: refused without hanging",
    18: "paths that escape or that two systems read differently: the patch is refused",
    19: "a patch that makes a symbolic link or submodule: refused",
    20: "a patch that writes outside of the package, or start-up hooks: refused",
    21: "other top-level directories of the distribution: refused, only lmcache/ is patched",
    22: "dist-packages, pip -t, an image root: found by the distribution's own path",
    23: "names that differ in case or normal form only: refused in a patch",
    24: "names that are not ASCII, C quotes, LANG=C",
    25: "CRLF target, LF patch: refused and never converted",
    26: "a patch file converted by a checkout: named as such",
    27: "no newline at the end, on either side: byte-exact",
    28: "lone CR, form feed, U+2028, NUL, latin-1, BOM: bytes of a line like others",
    29: "applied already: exit 0, nothing written, no mtime moved",
    30: "applied in part by something else: told per file, completed or taken back",
    31: "edited by the user before apply: refused even where the hunks fit (there is no --allow-modified)",
    32: "edited by the user after apply: rollback refuses; --force keeps the edited copy aside",
    33: "context that stands twice, hunks that moved: exact by default; --allow-offset only where unique",
    34: "insertion-only, deletion-only, white-space-only hunks; zero-context hunks are refused",
    35: "a newer series over an older one: one transaction; each file written once",
    36: "overlapping or unsorted hunks, a file twice in a patch: refused",
    37: "creating a file that exists: refused unless its bytes are those wanted",
    38: "deleting a file that differs: refused; one that is absent counts as deleted",
    39: "renames and copies: refused",
    40: "a change of mode alone: applied and rolled back; nothing in a dry run",
    41: "binary patches: refused",
    42: "empty, truncated, combined, context diffs, wrong counts, text around: refused with the line",
    43: "huge patches and targets, many hunks, repetition: capped and linear",
    44: "a result that is no valid Python: refused before anything is written",
    45: "timestamps in headers mean nothing",
    46: "stale bytecode of every kind: removed, and compiled again in the mode found",
    47: "legacy .pyc beside a deleted module: removed",
    48: "a running process keeps its code; a restart is named",
    49: "another interpreter than ours: asked, and compiles for itself; an image's is never run",
    50: "not installed: exit 3; --if-installed turns it into 0",
    51: "a version without series: exit 3, the nearest named",
    52: ".postN, local and dev versions: by PEP 440, and by the hashes of the files",
    53: "two dist-infos: refused; empty ones and leftovers of pip: ignored with a warning",
    54: "two copies on the path: the one that import loads, or a refusal",
    55: "import would load another place than the metadata names: refused",
    56: "editable installs and git checkouts: the source tree, state in the git directory",
    57: "a compiled module of the same name: refused",
    58: "an environment inside of somebody's repository is no checkout",
    59: "reinstalled over a patch: pristine, and said to be",
    60: "upgraded over a patch: state and backups went with the old version",
    61: "uninstalled after a patch: nothing is left",
    62: "RECORD missing, unreadable, CRLF, quoted: kept but for our rows; without one, state stays in dist-info",
    63: "RECORD is part of the transaction, and restored to the byte",
    64: "several runs at once: a lock, exit 4 for the loser; hashes are read again under it",
    65: "no flock: a lock file with host and process, and a warning",
    66: "SOURCE_DATE_EPOCH: byte- and mtime-equal layers",
    67: "no HOME, no TMPDIR, no terminal, no locale, no PATH",
    68: "modules in the current directory are not run",
    69: "a smoke check that hangs, crashes, floods or leaves processes",
    70: "applied, but no longer in the manifest: rolled back from the state alone",
    71: "state or journal of a newer gaudi-patch: refused, never guessed at",
    72: "state or backup damaged or missing: exit 6, never a silent partial rollback",
}

_BAD = "tests/series/test_diff.py::test_a_bad_patch_is_refused_with_the_line_and_the_reason"

#: Tests that cover a case without naming it.
ELSEWHERE: dict[int, list[str]] = {
    18: ["tests/series/test_path_names.py::test_an_unsafe_path_is_refused_with_the_reason", _BAD],
    19: [_BAD],
    23: [_BAD],
    24: [
        "tests/series/test_diff.py::test_a_name_is_read_in_quotes_or_plain",
        "tests/series/test_path_names.py::test_unquote_undoes_quote",
    ],
    27: ["tests/series/test_diff.py::test_a_missing_newline_is_exact_on_both_sides"],
    28: [
        "tests/series/test_diff.py::test_every_byte_of_a_line_is_kept",
        "tests/series/test_hunks.py::test_lines_end_at_lf_alone",
    ],
    33: [
        "tests/series/test_hunks.py::test_a_hunk_that_stands_twice_is_refused_even_at_its_own_line",
        "tests/series/test_hunks.py::test_there_is_no_fuzz",
    ],
    34: [_BAD],
    36: [_BAD],
    39: [_BAD],
    41: [_BAD],
    42: [_BAD, "tests/engine/test_properties.py::test_a_damaged_patch_is_refused_with_a_line_or_read_whole"],
    43: [
        "tests/series/test_diff.py::test_a_patch_that_is_too_large_is_refused_before_it_is_read",
        "tests/series/test_hunks.py::test_many_hunks_of_few_lines_are_each_found_once",
    ],
    45: ["tests/series/test_diff.py::test_a_timestamp_means_nothing"],
    69: [
        "tests/smoke/test_runner.py::test_a_probe_that_hangs_is_killed_with_everything_that_it_started",
        "tests/smoke/test_runner.py::test_a_probe_that_dies_or_gives_no_complete_result_never_passes",
        "tests/smoke/test_runner.py::test_of_a_flood_of_output_the_last_megabyte_is_kept",
        "tests/smoke/test_runner.py::test_what_a_finished_probe_left_running_is_killed",
    ],
}

#: Parts of a case that cannot be tested here.
NOT_HERE: dict[int, str] = {
    5: "the power is not cut: the order of the calls is recorded",
    8: "no SELinux here: seen with a user's extended attribute",
    23: "no file system here ignores case",
    43: "time and memory are measured by tests/bench_engine.py and asserted by no test",
    65: "no NFS here: flock is made to fail as NFS makes it fail",
}


def tests() -> Iterator[tuple[str, str]]:
    """Yield each test as (its name for pytest, its docstring)."""
    for file in sorted(TESTS.rglob("test_*.py")):
        name = f"tests/{file.relative_to(TESTS).as_posix()}"
        for node in ast.parse(file.read_bytes()).body:
            for one, prefix in [(node, name)] + [
                (inner, f"{name}::{node.name}") for inner in getattr(node, "body", []) if isinstance(node, ast.ClassDef)
            ]:
                if isinstance(one, ast.FunctionDef) and one.name.startswith("test_"):
                    yield f"{prefix}::{one.name}", ast.get_docstring(one) or ""


def kept() -> dict[int, list[str]]:
    """Return the tests of each case."""
    found: dict[int, list[str]] = {number: list(ELSEWHERE.get(number, [])) for number in CASES}
    for name, text in tests():
        for number in re.findall(r"\bcase_(\d+)\b", text):
            found.setdefault(int(number), []).append(name)
    return found


def table() -> str:
    """Return the content of tests/CASES.md."""
    lines = [
        "# Nasty cases",
        "",
        "What a patch tool meets, what this one does about it, and the tests that keep it so.",
        "Written by `python -m tests.support.cases`; a test holds it to the tests.",
        "",
        "| # | Case, and what is done | Tests |",
        "|---|---|---|",
    ]
    for number, names in sorted(kept().items()):
        cells = [f"`{name.removeprefix('tests/')}`" for name in names]
        if number in NOT_HERE:
            cells.append(f"Not here: {NOT_HERE[number]}.")
        lines.append(f"| {number} | {CASES[number]} | {'<br>'.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    TABLE.write_text(table())
