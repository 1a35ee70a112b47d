"""Journals and states that lead elsewhere, claim too much, or cannot be read."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.hostile.spoiling import EVIL, case, digest, forge_journal, forge_state, saved, up
from tests.support.tiny import Tiny

# Journals


@case(6)
def journal_names_an_absolute_path(target: Tiny, victim: Path) -> None:
    changes = {"path": f"{victim}/passwd", "temp": f"{victim}/.gaudi-patch-1-0.tmp", "after": saved(b"root:x:0:0\n")}
    forge_journal(target, entry=changes)


@case(6)
def journal_climbs_out(target: Tiny, victim: Path) -> None:
    changes = {"path": up(target, victim / "deleteme"), "before": None, "after": None, "undo": None}
    forge_journal(target, entry={**changes, "temp": up(target, victim / ".gaudi-patch-1-0.tmp"), "volatile": True})


@case(6)
def journal_has_another_temporary_file(target: Tiny, victim: Path) -> None:
    forge_journal(target, entry={"temp": f"{victim}/deleteme"})


@case(6)
def journal_removes_a_source_as_its_temporary_file(target: Tiny, victim: Path) -> None:
    forge_journal(target, entry={"temp": "lmcache/untouched.py"})


@case(6)
def journal_created_a_directory_outside(target: Tiny, victim: Path) -> None:
    forge_journal(target, created=[str(victim / "emptydir")])


@case(6)
def journal_removed_a_directory_outside(target: Tiny, victim: Path) -> None:
    forge_journal(target, removed=[[f"{victim}/made", "6777"]])


@case()
def journal_gives_a_set_id_mode(target: Tiny, victim: Path) -> None:
    """Into the package itself: written, but without any bit that the file does not have."""
    forge_journal(target, entry={"before": saved(EVIL, "6755")})


@case()
def journal_plants_a_link(target: Tiny, victim: Path) -> None:
    forge_journal(target, entry={"before": saved(EVIL, link=str(victim / "secret"))})


@case(6)
def journal_says_a_source_is_bytecode_of_the_state(target: Tiny, victim: Path) -> None:
    forge_journal(target, entry={"path": f"{target.dist_info.name}/METADATA"})


@case(6)
def journal_has_a_nul(target: Tiny, victim: Path) -> None:
    forge_journal(target, entry={"path": "lmcache/a\0.py"})


@case(6)
def journal_has_a_lone_surrogate(target: Tiny, victim: Path) -> None:
    forge_journal(target, entry={"path": "lmcache/\ud800.py"})


@case(6)
def journal_is_deep(target: Tiny, victim: Path) -> None:
    forge_journal(target, "[" * 200_000)


@case(6)
def journal_has_huge_numbers(target: Tiny, victim: Path) -> None:
    forge_journal(target, '{"schema_version": ' + "9" * 10_000 + "}")


@case(6)
def journal_has_numbers_of_the_wrong_kind(target: Tiny, victim: Path) -> None:
    forge_journal(target, entry={"undo": [0, 1e400]})


@case(6)
def journal_reads_before_the_undo_file(target: Tiny, victim: Path) -> None:
    forge_journal(target, entry={"undo": [-5, 5]})


@case(6, 1)
def journal_is_endless(target: Tiny, victim: Path) -> None:
    target.home.mkdir()
    with (target.home / "journal.json").open("wb") as stream:
        stream.truncate(1 << 40)


@case(6)
def journal_has_very_many_entries(target: Tiny, victim: Path) -> None:
    """Linear in its size; each path is named twice, so none is trusted."""
    entry = json.dumps({"path": "lmcache/engine.py", "before": None, "after": None, "undo": None, "volatile": False})
    entry = entry[:-1] + ', "temp": "lmcache/.gaudi-patch-1-%d.tmp"}'
    entries = ",".join(entry % number for number in range(60_000))
    text = '{"schema_version": 1, "verb": "x", "phase": "replacing", "created": [], "removed": [], "entries": [%s]}'
    forge_journal(target, text % entries)


# States


@case(6, applied=True)
def state_names_absolute_bytecode(target: Tiny, victim: Path) -> None:
    forge_state(target, bytecode={str(victim / "evil"): saved(EVIL, "6755")})


@case(6, applied=True)
def state_names_bytecode_that_climbs_out(target: Tiny, victim: Path) -> None:
    forge_state(target, bytecode={up(target, victim / "engine.cpython-311.pyc"): saved(EVIL)})


@case(6, applied=True)
def state_names_a_source_as_bytecode(target: Tiny, victim: Path) -> None:
    forge_state(target, bytecode={"lmcache/untouched.py": saved(EVIL)})


@case(6, applied=True)
def state_names_directories_outside(target: Tiny, victim: Path) -> None:
    forge_state(target, directories=[up(target, victim / "emptydir")])


@case(6, applied=True)
def state_names_files_outside(target: Tiny, victim: Path) -> None:
    file = {"before": saved(EVIL), "after": digest(b"root:x:0:0\n")}
    forge_state(target, files={up(target, victim / "passwd"): file})


@case(applied=True)
def state_gives_set_id_modes(target: Tiny, victim: Path) -> None:
    files = json.loads((target.state_dir / "state.json").read_bytes())["files"]
    for file in files.values():
        if file["before"]:
            file["before"] |= {"mode": "7777", "owner": [0, 0]}
    forge_state(target, files=files)


@case(applied=True)
def state_plants_a_link_to_a_secret(target: Tiny, victim: Path) -> None:
    files = json.loads((target.state_dir / "state.json").read_bytes())["files"]
    files["lmcache/engine.py"]["before"]["link"] = str(victim / "secret")
    forge_state(target, files=files)


@case(6, applied=True)
def state_has_very_many_files(target: Tiny, victim: Path) -> None:
    """Each has its own bytecode, in one directory: more than in any series, so not trusted."""
    nothing = {"before": None, "after": None}
    files = {f"lmcache/m{number}.py": nothing for number in range(20_000)}
    cached = [f"lmcache/__pycache__/m{number}.cpython-39.pyc" for number in range(20_000)]
    forge_state(target, files=files, bytecode={name: saved(EVIL) for name in cached}, compiled={})
    with target.record.open("ab") as stream:
        stream.write("".join(f"{name},,\r\n" for name in cached).encode())


@case(6, applied=True)
def state_is_deep(target: Tiny, victim: Path) -> None:
    (target.state_dir / "state.json").write_text('{"a":' * 100_000)


@case(6, applied=True)
def state_has_odd_texts(target: Tiny, victim: Path) -> None:
    forge_state(target, series="\ud800", version="\x00")


@case(6, applied=True)
def state_has_hashes_that_are_paths(target: Tiny, victim: Path) -> None:
    files = json.loads((target.state_dir / "state.json").read_bytes())["files"]
    files["lmcache/engine.py"]["before"]["sha256"] = str(victim / "secret")
    forge_state(target, files=files)


@case(1, 6, applied=True)
def state_is_huge(target: Tiny, victim: Path) -> None:
    with (target.state_dir / "state.json").open("ab") as stream:
        stream.truncate(1 << 40)


@case(applied=True)
def state_directory_holds_foreign_files(target: Tiny, victim: Path) -> None:
    (target.state_dir / "backup" / "theirs").write_bytes(b"keep me")
    (target.state_dir / "deep" / "er").mkdir(parents=True)
