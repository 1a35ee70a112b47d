"""Usage errors have the form of all other errors, suggest the likely name, and their hint works as printed."""

from __future__ import annotations

import re
import shlex

import pytest

from tests.support.cli import gaudi_patch


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("aply", "no such command 'aply'; did you mean apply?"),
        ("dev prot", "no such command 'prot'; did you mean port?"),
        ("apply --dryrun", "no such option: --dryrun; did you mean --dry-run?"),
        ("show", "missing argument 'VERSION'"),
        ("apply --lock-timeout x", "invalid value for '--lock-timeout': 'x' is not a valid float"),
        ("smoke kernel", "no such smoke level: kernel; did you mean kernels?"),
        ("guide quickstart", "no such guide: 'quickstart'; did you mean quick-start?"),
        ("recipe memry", "no mode is called 'memry'; did you mean memory?"),
        ("recipe memory --target kubernets --out x", "no target is called 'kubernets'; did you mean kubernetes?"),
        (
            "bench --host gaudi33",
            "--host must be one of gaudi3, gaudi3-x8, gaudi2, gaudi2-x8, not 'gaudi33'; did you mean gaudi3",
        ),
        (
            "check --color alwys",
            "invalid value for '--color': 'alwys' is not one of 'auto', 'always', 'never'; did you",
        ),
        ("check --pyton x", "no such option: --pyton; did you mean --python?"),
        ("version", "no such command 'version'; did you mean --version?"),
        ("smoke --device hpuu", "--device must be one of auto, hpu, emulated, not 'hpuu'; did you mean hpu?"),
    ],
)
def test_what_is_wrong_stands_behind_error_with_what_was_probably_meant(arguments: str, said: str) -> None:
    done = gaudi_patch(*arguments.split())
    first, *rest = done.err.splitlines()
    assert done.code == 2
    assert done.out == ""
    assert first.startswith(f"error: {said}")
    assert not any("Usage" in line or "Error:" in line for line in rest)


@pytest.mark.parametrize(("version", "meant"), [("0.5.x", "0.5.6"), ("0,5,6", "0.5.6")])
def test_a_release_that_is_no_version_is_guessed(version: str, meant: str) -> None:
    done = gaudi_patch("show", version)
    assert done.code == 3
    assert f"did you mean {meant}" in done.err


@pytest.mark.parametrize(
    "arguments", ["show", "list", "wheel", "recipe memory --out x --lmcache", "demo --no-smoke --version"]
)
def test_a_version_with_numbers_left_out_is_no_release_and_those_that_it_may_be_are_named(arguments: str) -> None:
    done = gaudi_patch(*arguments.split(), "0.4")
    assert (done.code, done.out) == (3, "")
    first, second = done.err.splitlines()
    assert first == "error: LMCache 0.4 is not a full version; it may be 0.4.1 to 0.4.7"
    assert second == "  next: give one in full, such as 0.4.7"
    assert "; it may be 0.3.7 to 0.5.6" in gaudi_patch("show", "0").err


def test_nothing_is_guessed_where_nothing_is_close() -> None:
    assert "did you mean" not in gaudi_patch("xyzzy").err
    assert "did you mean" not in gaudi_patch("smoke", "--levels", "imports").err  # --rules is close by its dashes only


@pytest.mark.parametrize("arguments", ["aply", "dev prot", "apply --dryrun", "show"])
def test_the_help_that_a_usage_error_names_exists(arguments: str) -> None:
    (line,) = re.findall(r"next: `gaudi-patch (.*?)`", gaudi_patch(*arguments.split()).err)
    assert gaudi_patch(*shlex.split(line)).code == 0


def test_a_word_of_the_user_drives_no_terminal() -> None:
    assert "\x1b" not in gaudi_patch("\x1b[31mapply").err
