"""The JSON of the commands."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from tests.cli.command_line import document, invoke
from tests.support import tiny
from tests.support.tiny import Tiny


def test_the_json_of_check_is_this_object_and_no_other(tmp_path: Path) -> None:
    """Schema 1: keys are only ever added; then this test changes."""
    target = tiny.make(
        tmp_path, {"lmcache/__init__.py": b"A = 1\n"}, {"lmcache/__init__.py": b"A = 2\n"}, executable=frozenset()
    )
    pristine = hashlib.sha256(b"A = 1\n").hexdigest()
    patched = hashlib.sha256(b"A = 2\n").hexdigest()
    found = document(target, "check")
    assert found == {
        "command": "check",
        "data": {
            "applied_at": None,
            "applied_series": None,
            "built": None,
            "capabilities": [],
            "chosen_because": f"--path {target.site}",
            "files": [
                {
                    "current_sha256": pristine,
                    "path": "lmcache/__init__.py",
                    "post_sha256": patched,
                    "pre_sha256": pristine,
                    "state": "pristine",
                }
            ],
            "interrupted": None,
            "layout": "wheel",
            "matched_by_hash": False,
            "package": "lmcache",
            "python": None,
            "root": str(target.site),
            "series": "0.5.6",
            "state": "pristine",
            "unproved": False,
            "verdict": "series",
            "version": "0.5.6",
        },
        "errors": [],
        "exit_code": 10,
        "schema_version": 1,
        "status": "ok",
        "warnings": [],
    }
    code, out, _ = invoke(target, "check", "--json")
    assert out == json.dumps(found, indent=2, sort_keys=True) + "\n"
    assert code == 10


@pytest.mark.parametrize("verb", ["check", "apply", "rollback"])
def test_an_error_in_json_is_one_object_with_code_message_hint_file_and_line(verb: str, target: Tiny) -> None:
    (target.site / "lmcache/engine.py").write_bytes(b"mine\n")
    found = document(target, verb)
    assert set(found) == {"command", "data", "errors", "exit_code", "schema_version", "status", "warnings"}
    assert (found["command"], found["status"], found["schema_version"]) == (verb, "error", 1)
    (error,) = found["errors"]
    assert set(error) == {"code", "details", "file", "hint", "line", "message"}


def test_json_of_apply_says_what_is_done_with_each_file(target: Tiny) -> None:
    planned = document(target, "apply", "--dry-run")
    done = document(target, "apply")
    assert (planned["data"]["changed"], done["data"]["changed"]) == (False, True)
    assert planned["data"]["planned"] == done["data"]["planned"]
    assert {one["path"]: one["action"] for one in done["data"]["planned"]}["lmcache/v1/old.py"] == "delete"
    assert document(target, "rollback")["data"]["rolled_back"] == "0.5.6"


def test_the_time_in_json_is_utc_and_from_the_source_date(target: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """case_66"""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    assert document(target, "apply")["data"]["applied_at"] == "2023-11-14T22:13:20Z"
