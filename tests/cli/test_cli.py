"""The command line as a contract: exit codes, streams, JSON, colours, and what a run imports."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from gaudi_patch import cli
from gaudi_patch.errors import Exit
from tests.support import tiny
from tests.support.cli import command, environment, gaudi_patch, too_wide
from tests.support.fake_wheel import fake_wheel, unpack
from tests.support.tiny import Tiny, tree


@pytest.fixture
def target(tmp_path: Path) -> Tiny:
    """A tiny LMCache in a folder whose name is no easy one."""
    return tiny.make(tmp_path / "a [bold]ü b")


@pytest.fixture(autouse=True)
def _plain(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GITHUB_ACTIONS", "NO_COLOR", "FORCE_COLOR", "GITHUB_STEP_SUMMARY"):
        monkeypatch.delenv(name, raising=False)


def arguments(target: Tiny, verb: str, *more: str) -> list[str]:
    quiet = ["--no-smoke"] if verb == "apply" else []
    return [verb, "--path", str(target.site), "--manifest", str(target.manifest.directory), *quiet, *more]


def invoke(target: Tiny, verb: str, *more: str) -> tuple[int, str, str]:
    """Run a verb in this process: exit code, stdout, stderr."""
    done = CliRunner().invoke(cli.app, arguments(target, verb, *more))
    return done.exit_code, done.stdout, done.stderr


def document(target: Tiny, verb: str, *more: str) -> dict[str, Any]:
    code, out, err = invoke(target, verb, "--json", *more)
    found: dict[str, Any] = json.loads(out)
    assert found["exit_code"] == code
    assert err == ""
    return found


# Exit codes


def test_the_exit_codes_of_a_whole_story(target: Tiny) -> None:
    before = tree(target.site)
    verbs = ("check", "apply", "check", "apply", "rollback", "check", "rollback")
    assert [invoke(target, verb)[0] for verb in verbs] == [10, 0, 0, 0, 0, 10, 0]
    assert tree(target.site) == before


def test_drift_exits_1(target: Tiny) -> None:
    """case_31: every verb says which file it is."""
    (target.site / "lmcache/engine.py").write_bytes(b"mine\n")
    for verb in ("check", "apply", "rollback"):
        code, out, err = invoke(target, verb)
        assert code == 1
        assert "modified: lmcache/engine.py" in err
        assert "error:" not in out


@pytest.mark.parametrize(
    "wrong", [["--nonsense"], ["extra"], ["--color", "pink"], ["--output-format", "xml"], ["--path", "/nowhere"]]
)
def test_usage_exits_2(wrong: list[str], target: Tiny) -> None:
    assert CliRunner().invoke(cli.app, ["check", *wrong]).exit_code == 2


def test_a_bad_manifest_exits_2(target: Tiny) -> None:
    file = target.manifest.directory / "manifest.toml"
    file.write_text(file.read_text() + "[nonsense]\n")
    for verb in ("check", "apply", "rollback"):
        (error,) = document(target, verb)["errors"]
        assert (error["code"], error["file"]) == ("bad-manifest", str(file))
        assert error["line"] == file.read_text().splitlines().index("[nonsense]") + 1


def test_a_bad_patch_exits_2(target: Tiny) -> None:
    """case_26: an edited patch is refused before anything is parsed."""
    file = target.manifest.directory / "tiny.patch"
    file.write_bytes(file.read_bytes() + b"\n")
    for verb in ("check", "apply"):
        (error,) = document(target, verb)["errors"]
        assert (error["code"], error["file"]) == ("bad-manifest", str(file))


def test_nothing_installed_exits_3(tmp_path: Path, target: Tiny) -> None:
    """case_50"""
    (tmp_path / "empty").mkdir()
    done = CliRunner().invoke(cli.app, ["check", "--path", str(tmp_path / "empty"), "--json"])
    assert (done.exit_code, json.loads(done.stdout)["errors"][0]["code"]) == (3, "not-installed")
    done = CliRunner().invoke(cli.app, ["check", "--path", str(tmp_path / "empty"), "--json", "--if-installed"])
    assert (done.exit_code, json.loads(done.stdout)["data"]) == (0, {"installed": False})
    assert json.loads(done.stdout)["warnings"]


def test_an_unknown_version_exits_3(target: Tiny, tmp_path: Path) -> None:
    """case_51"""
    wheel = fake_wheel(tmp_path / "w", "0.5.7", {**tiny.PRISTINE, "lmcache/engine.py": b"other\n"})
    unpack(wheel, tmp_path / "site2")
    for verb in ("check", "apply"):
        done = CliRunner().invoke(
            cli.app, [verb, "--path", str(tmp_path / "site2"), "--manifest", str(target.manifest.directory), "--json"]
        )
        (error,) = json.loads(done.stdout)["errors"]
        assert (done.exit_code, error["code"]) == (3, "unknown-version")
        assert "nearest series is 0.5.6" in error["message"]


def test_an_environment_error_exits_4(target: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """case_3: what was being done, and that nothing was changed."""
    from gaudi_patch.disk import Disk

    def step(self: Disk, name: str, path: Path) -> None:
        if name == "fsync" and path.name.startswith(".gaudi-patch-"):
            raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(Disk, "step", step)
    (error,) = document(target, "apply")["errors"]
    assert error["code"] == "enospc"
    assert "everything was put back" in error["message"]
    assert "free some space" in error["hint"]


def test_a_damaged_state_exits_6(target: Tiny) -> None:
    """case_72"""
    invoke(target, "apply")
    (target.state_dir / "state.json").write_text("{}")
    for verb in ("check", "apply", "rollback"):
        found = document(target, verb)
        assert (found["exit_code"], found["errors"][0]["code"]) == (6, "state-damaged")


def test_a_bug_exits_70_and_leaves_a_report(target: Tiny, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from gaudi_patch.engine import verdicts as check

    def broken(*_: object) -> None:
        raise ZeroDivisionError("one over none")

    monkeypatch.setattr(check, "check", broken)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    found = document(target, "check")
    (error,) = found["errors"]
    assert (found["exit_code"], error["code"]) == (70, "bug")
    assert "ZeroDivisionError: one over none" in error["message"]
    (report,) = tmp_path.glob("gaudi-patch-bug-*.txt")
    assert str(report) in error["hint"]
    text = report.read_text()
    assert "Traceback" in text
    assert "gaudi-patch" in text.splitlines()[0]


def test_a_bug_without_a_place_for_its_report_tells_it_on_stderr(target: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    from gaudi_patch.engine import verdicts as check

    def broken(*_: object) -> None:
        raise ZeroDivisionError

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(check, "check", broken)
    monkeypatch.setattr("tempfile.NamedTemporaryFile", full)
    code, _, err = invoke(target, "check")
    assert code == 70
    assert "Traceback" in err


def test_an_os_error_outside_a_transaction_is_an_environment_error(
    target: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gaudi_patch.engine import verdicts as check

    def broken(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "/somewhere")

    monkeypatch.setattr(check, "check", broken)
    found = document(target, "check")
    assert (found["exit_code"], found["errors"][0]["code"], found["errors"][0]["file"]) == (4, "eacces", "/somewhere")


# JSON


def test_the_json_of_check_is_this_object_and_no_other(tmp_path: Path) -> None:
    """Schema 1: keys are only ever added, and then this test is changed."""
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


# Streams


def test_data_goes_to_stdout_and_narration_to_stderr(target: Tiny) -> None:
    code, out, err = invoke(target, "check")
    assert code == 10
    assert err == ""
    assert "pristine" in out
    (target.site / "lmcache/engine.py").unlink()
    code, out, err = invoke(target, "check")
    assert "error:" in err
    assert "next:" in err
    assert "error:" not in out


def test_a_file_that_the_series_adds_is_told_from_one_that_is_there(target: Tiny) -> None:
    added, there = "lmcache/gaudi/__init__.py (not there: the series adds it)", "lmcache/engine.py"
    lines = invoke(target, "check")[1].splitlines()
    assert {f"pristine  {added}", f"pristine  {there}"} <= set(lines)
    invoke(target, "apply")
    assert added not in invoke(target, "check")[1]


def test_a_path_with_spaces_is_never_broken_and_brackets_are_kept(target: Tiny) -> None:
    done = gaudi_patch(*arguments(target, "check"), env={"COLUMNS": "20"})
    assert f"0.5.6 in {target.site}" in done.out
    assert "\x1b" not in done.out


def shell(line: str, target: Tiny, verb: str) -> subprocess.CompletedProcess[str]:
    """Run a verb within a shell line, where it is "$@"."""
    return subprocess.run(
        ["bash", "-c", line, "bash", *command(*arguments(target, verb))],
        capture_output=True, text=True, env=environment(), timeout=120, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ('"$@" >&-', 0),
        ('"$@" >&- 2>&-', 0),
        ('"$@" > /dev/full', 0),
        ('"$@" > /dev/full 2> /dev/full', 0),
        ('"$@" <&-', 0),
        ('set -o pipefail; "$@" | head -c 1 > /dev/null', 0),
        ('set -o pipefail; "$@" | true', 0),
    ],
)
def test_a_closed_or_full_stdout_changes_nothing(line: str, code: int, target: Tiny) -> None:
    """case_12: neither the transaction nor the exit code, and nothing is complained about."""
    done = shell(line, target, "apply")
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    assert target.check().exit is Exit.OK
    done = shell(line, target, "rollback")
    assert done.returncode == code
    assert target.check().exit is Exit.PENDING


def test_stdin_is_never_read(target: Tiny) -> None:
    assert shell('"$@" < /dev/full', target, "apply").returncode == 0


# The surroundings


def test_it_works_in_an_empty_environment(target: Tiny, tmp_path: Path) -> None:
    """case_67: no HOME, no PATH, no locale, a TMPDIR that does not exist; temporary files lie beside their targets."""
    for verb, code in (("check", 10), ("apply", 0), ("check", 0), ("rollback", 0)):
        done = subprocess.run(
            command(*arguments(target, verb)),
            env={"LC_ALL": "C", "TMPDIR": str(tmp_path / "nowhere"), "PYTHONSAFEPATH": "1"},
            cwd="/", capture_output=True, check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stderr


def test_names_that_are_not_ascii_survive_a_c_locale(target: Tiny) -> None:
    """case_24"""
    env = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = gaudi_patch(*arguments(target, "check"), env=env)
    assert done.code == 10, done
    assert "Traceback" not in done.err


def test_a_module_in_the_current_folder_is_not_run(target: Tiny, tmp_path: Path) -> None:
    """case_68: the console script does not look for modules where it stands."""
    script = Path(sys.executable).with_name("gaudi-patch")
    if not script.exists():
        pytest.skip("gaudi-patch is not installed here, there is no console script")
    for name in ("unidiff", "typer", "packaging", "json", "lmcache", "sitecustomize"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit(99)\n")
    done = subprocess.run(
        [script, *arguments(target, "apply")], cwd=tmp_path, env=environment(), capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_check_in_a_pipe_imports_nothing_heavy(target: Tiny) -> None:
    """A plain check is done before a heavy library is loaded; the same holds where nothing is to be applied."""
    code = (
        "import sys\n"
        "from gaudi_patch import cli\n"
        f"sys.argv = ['gaudi-patch', *{arguments(target, 'check')!r}]\n"
        "try:\n    cli.main()\n"
        "except SystemExit as error:\n    status = error.code\n"
        "heavy = {'rich', 'git', 'pydantic', 'torch', 'lmcache', 'unidiff'} & set(sys.modules)\n"
        "print(status, *sorted(heavy), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment(), check=False)
    assert done.stderr == "10\n"


# Colour


def on_terminal(target: Tiny, verb: str, **env: str) -> str:
    """What a verb prints on a terminal."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        command(*arguments(target, verb)), stdin=follower, stdout=follower, stderr=follower,
        env=environment(**{"TERM": "xterm-256color", **env}),
    )  # fmt: skip
    os.close(follower)
    chunks = []
    while True:
        try:
            chunk = os.read(leader, 65536)
        except OSError:  # the terminal's other end is closed
            break
        if not chunk:
            break
        chunks.append(chunk)
    os.close(leader)
    process.wait(60)
    return b"".join(chunks).decode()


def coloured(text: str) -> bool:
    """Whether there is a colour; bold is none (https://no-color.org)."""
    return re.search(r"\x1b\[(\d+;)*[349]\d", text) is not None


def test_a_terminal_gets_colour_unless_it_is_not_wanted(target: Tiny) -> None:
    assert coloured(on_terminal(target, "check"))
    assert not coloured(on_terminal(target, "check", NO_COLOR="1"))
    assert not coloured(on_terminal(target, "check", NO_COLOR="1", FORCE_COLOR="1"))
    assert coloured(on_terminal(target, "check", NO_COLOR=""))
    assert not coloured(on_terminal(target, "check", TERM="dumb"))
    assert "[bold]" in on_terminal(target, "check", COLUMNS="400")


def test_a_pipe_gets_colour_only_when_forced(target: Tiny) -> None:
    run = gaudi_patch
    assert "\x1b[" not in run(*arguments(target, "check")).out
    assert "\x1b[" in run(*arguments(target, "check"), env={"FORCE_COLOR": "1"}).out
    assert "\x1b[" not in run(*arguments(target, "check"), env={"FORCE_COLOR": "1", "NO_COLOR": "1"}).out
    assert "\x1b[" in run(*arguments(target, "check", "--color", "always")).out
    assert "\x1b[" not in run(*arguments(target, "check", "--color", "never"), env={"FORCE_COLOR": "1"}).out
    assert "\x1b[" not in run(*arguments(target, "check", "--json"), env={"FORCE_COLOR": "1"}).out


# GitHub


def test_github_annotations_mark_the_line_and_a_summary_is_appended(tmp_path: Path) -> None:
    """A hunk that does not apply is marked in the patch, with what explains it; all in one line, escaped."""
    target = tiny.make(tmp_path / "t")
    summary = tmp_path / "summary.md"
    engine = target.site / "lmcache/engine.py"
    engine.write_bytes(b"100%\n")
    done = gaudi_patch(
        *arguments(target, "apply", "--output-format", "github"), env={"GITHUB_STEP_SUMMARY": str(summary)}
    )
    assert done.code == 1
    (line,) = [line for line in done.out.splitlines() if line.startswith("::error")]
    assert line.startswith(f"::error file={target.site},title=gaudi-patch drift::")
    assert "%0A" in line
    assert summary.read_text().startswith("### gaudi-patch apply: exit 1\n")

    ok = gaudi_patch(*arguments(tiny.make(tmp_path / "u"), "check", "--output-format", "github"))
    assert (ok.code, "::error" in ok.out) == (10, False)


def test_a_hunk_that_does_not_apply_is_marked_in_its_patch_and_explained(tmp_path: Path) -> None:
    """The annotation stands at the hunk's own line; its text says what differs and where."""
    target = tiny.make(tmp_path / "t")
    (target.site / "lmcache/engine.py").write_bytes(b"def device() -> str:\n    return 'cuda'\n")
    metadata = target.dist_info / "METADATA"
    metadata.write_text(metadata.read_text().replace("0.5.6", "0.5.7"))
    target.dist_info.rename(target.site / "lmcache-0.5.7.dist-info")
    done = gaudi_patch(*arguments(target, "apply", "--allow-offset", "--output-format", "github"))
    assert done.code == 1
    (line,) = [line for line in done.out.splitlines() if line.startswith("::error")]
    patch = target.manifest.directory / "tiny.patch"
    lines = patch.read_bytes().split(b"\n")
    at = lines.index(b"+++ b/lmcache/engine.py") + 2
    assert line.startswith(f"::error file={patch},line={at},title=gaudi-patch does-not-apply::")
    assert "def device() -> str:" in line
    assert lines[at - 1].startswith(b"@@")


# Help


def commands(group: Any, prefix: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name in group.list_commands(None):
        one = group.get_command(None, name)
        if hasattr(one, "list_commands"):
            yield from commands(one, (*prefix, name))
        else:
            yield (*prefix, name), one


ALL_COMMANDS = dict(commands(typer.main.get_command(cli.app)))


@pytest.mark.parametrize("names", ALL_COMMANDS, ids=" ".join)
def test_help_reads_like_a_manual_with_an_example(names: tuple[str, ...]) -> None:
    done = CliRunner().invoke(cli.app, [*names, "--help"])
    assert done.exit_code == 0
    assert re.search(r"^ *Example", done.stdout, re.MULTILINE), done.stdout
    assert f"gaudi-patch {' '.join(names)}" in done.stdout.split("Example", 1)[1]
    for option in ALL_COMMANDS[names].params:
        if option.param_type_name == "option":
            assert option.help, f"{option.name} has no help"


@pytest.mark.parametrize(
    "line",
    [
        ("list",),
        ("guide",),
        ("recipe",),
        ("doctor",),
        ("show", "0.3.7"),
        ("show", "0.5.6"),
        *((*names, "--help") for names in ALL_COMMANDS),
    ],
    ids=" ".join,
)
def test_in_a_pipe_it_fits_80_columns(line: tuple[str, ...]) -> None:
    done = gaudi_patch(*line, env={"COLUMNS": ""})
    # What a patch holds is shown as it is.
    ours = [text for text in done.out.splitlines() if not text.startswith(("+", "-", " ", "@@", "diff ", "index "))]
    assert len(ours) > 3
    assert too_wide("\n".join(ours if line[0] == "show" else done.out.splitlines())) == []


def test_the_verbs_are_those_of_the_manual() -> None:
    names = {" ".join(one) for one in ALL_COMMANDS}
    assert {"check", "apply", "rollback", "list", "show", "demo", "dev lint"} <= names


def test_only_the_verb_that_is_invoked_is_imported(target: Tiny) -> None:
    """Start-up does not grow with the verbs."""
    code = (
        "import sys\n"
        "from gaudi_patch import cli\n"
        f"sys.argv = ['gaudi-patch', *{arguments(target, 'check')!r}]\n"
        "try:\n    cli.main()\n"
        "except SystemExit:\n    pass\n"
        "print(*sorted({f'gaudi_patch.commands.{verb}' for verb in cli.VERBS} & set(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment(), check=False)
    assert done.stderr == "gaudi_patch.commands.check\n"


def test_without_arguments_the_help_is_shown() -> None:
    done = CliRunner().invoke(cli.app, [])
    assert "Exit codes" in done.stdout + done.stderr


def test_the_version_names_what_a_bug_report_needs() -> None:
    done = CliRunner().invoke(cli.app, ["--version"])
    assert done.exit_code == 0
    for name in ("gaudi-patch ", "python ", "typer ", "unidiff "):
        assert f"\n{name}" in f"\n{done.stdout}"
