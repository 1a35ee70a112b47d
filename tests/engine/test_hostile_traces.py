"""Traced from outside: the file that a hostile link leads to is neither written nor read.

The preloaded library of tests/rig sees every call of the real command. A full run traces all cases, with every way to
name a target.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.rig import trace
from tests.support.cli import command, environment
from tests.support.faults import FULL
from tests.support.hostile import CASES, Case, make_victim
from tests.support.hostile.images import WAYS, make_templates, spoil

pytestmark = pytest.mark.skipif(
    not any(map(shutil.which, ("cc", "gcc", "clang"))), reason="needs a C compiler to build the preloaded library"
)

#: A source may be a link, and so may METADATA: the linked file is read, but never written. See docs/trust.md.
LOOKED_AT = {
    "target_is_a_link_to_another_file",
    "target_is_a_link_to_its_own_bytes",
    "metadata_is_a_link_to_a_secret",
    "journal_plants_a_link",
    "state_plants_a_link_to_a_secret",
    # The search for the package lists it, wherever it is; it is still refused.
    "package_is_a_link_to_the_directory_of_another_user",
    # With --python, doctor imports LMCache in the target, and Python itself follows the link to look for bytecode.
    "bytecode_directory_is_a_link",
}
#: Exit of a program whose calls cannot be logged: it has done nothing, so it has touched nothing.
INSTRUMENT_FAILED = "exit status 99"
#: These take long to lay out, and contain no links.
LARGE = {case.name for case in CASES if "very_many" in case.name or "huge" in case.name or "endless" in case.name}
TRACED = [case for case in CASES if case.name not in LARGE]
EACH = [
    pytest.param(case, way, id=f"{case.name}-{way}")
    for number, case in enumerate(TRACED)
    for way in WAYS
    if FULL or (number % 4 == 0 and way == WAYS[number // 4 % len(WAYS)])
]


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_templates(tmp_path_factory.mktemp("traces"))


@pytest.mark.parametrize(("case", "way"), EACH)
def test_nothing_outside_is_opened(case: Case, way: str, templates: Path, tmp_path: Path) -> None:
    """case_20: by check, doctor, check --against, apply and rollback."""
    work = tmp_path.resolve()
    spoiled = spoil(case, templates, work, way)
    beside = [path for path in work.iterdir() if path != spoiled.image]
    scratch = work / "scratch"
    scratch.mkdir()
    acts: list[list[str | Path]] = [["check"], ["doctor"], ["check", "--against", templates / "attestation.json"]]
    for words in [*acts, ["apply", "--no-smoke"], ["rollback"]]:
        done = trace.run(command(*words, *spoiled.options), env=environment(TMPDIR=str(scratch)))
        assert INSTRUMENT_FAILED not in done.out + done.err, done
        touched = done.touched(*beside)
        if case.name in LOOKED_AT:
            touched = [call for call in touched if call.changes]
        assert touched == [], done
        theirs = (spoiled.image, scratch, Path(os.devnull))
        assert [
            path for path in done.written if path.is_absolute() and not any(map(path.is_relative_to, theirs))
        ] == [], done
        assert list(scratch.iterdir()) == [], done
        assert way != "python" or len({call.pid for call in done.calls}) > 1, "the target's interpreter is not traced"


@pytest.mark.parametrize("way", WAYS)
def test_under_the_trace_a_sound_target_is_patched(way: str, templates: Path, tmp_path: Path) -> None:
    """If the instrument itself ended a run, that run would touch nothing and prove nothing."""
    sound = Case("sound", lambda target, victim: None, applied=False, exits=None)
    spoiled = spoil(sound, templates, tmp_path.resolve(), way)
    for words in (["apply", "--no-smoke"], ["rollback"]):
        done = trace.run(command(*words, *spoiled.options), env=environment(TMPDIR=str(tmp_path)))
        assert done.code == 0, done


def test_the_trace_sees_what_would_be_wrong(tmp_path: Path) -> None:
    """The trace must see a write through a link, or it proves nothing."""
    work = tmp_path.resolve()
    victim = make_victim(work)
    (work / "link").symlink_to(victim)
    done = trace.run(["sh", "-c", f"echo x > {work}/link/deleteme"], env=environment())
    assert done.touched(victim)
    assert victim / "deleteme" in done.written
