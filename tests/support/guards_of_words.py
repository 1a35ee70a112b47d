"""Guards that keep a run from making false claims, and ``dev`` from obeying git's settings."""

from __future__ import annotations

from tests.support.guard import Guard

_UNDO = ("tests/engine/test_undo.py", "tests/engine/test_recovery.py")
_PROOF = ("tests/attestation/test_prove.py", "tests/engine/test_apply_proof.py")
_REREAD = ("tests/attestation/test_prove.py", "tests/engine/test_true_words.py")
_MOUNTS = ("tests/engine/test_mounted_files.py",)
_PRINTED = ("tests/output/test_escape.py", "tests/cli/test_github.py", "tests/cli/test_printing.py")
_GIT = ("tests/authoring/test_git_settings.py", "tests/authoring/test_lint.py")

WORDS = (
    # Claims
    Guard(
        "what fails its proof does not stay",
        "gaudi_patch/attestation/prove.py",
        "            now = self.take_back(fault)\n",
        "            pass\n",
        _PROOF,
    ),
    Guard(
        "after a rollback everything speaks of the state after it",
        "gaudi_patch/attestation/prove.py",
        "            now = self.take_back(fault)\n",
        "            self.take_back(fault)\n",
        _PROOF,
    ),
    Guard(
        "an error before the proof rolls back",
        "gaudi_patch/attestation/prove.py",
        "        if demanded and not run.settled and",
        "        if False and",
        _PROOF,
    ),
    Guard(
        "control characters are shown escaped",
        "gaudi_patch/output/escape.py",
        "    if text.isprintable():\n        return text\n",
        "    return text\n",
        _PRINTED,
    ),
    Guard(
        "no text is a command to a GitHub runner",
        "gaudi_patch/output/escape.py",
        "    return _COMMAND.sub(",
        "    return text or _COMMAND.sub(",
        _PRINTED,
    ),
    Guard(
        "a stream that cannot encode gets escapes",
        "gaudi_patch/output/streams.py",
        "        except UnicodeEncodeError:  # LANG=C",
        "        except ZeroDivisionError:  # LANG=C",
        ("tests/cli/test_streams.py", "tests/cli/test_printing.py", "tests/output/test_report.py"),
    ),
    Guard(
        "a stream that failed is known to have failed",
        "gaudi_patch/output/streams.py",
        "        return error.strerror or str(error) or type(error).__name__\n",
        '        return ""\n',
        ("tests/cli/test_streams.py", "tests/cli/test_printing.py", "tests/output/test_report.py"),
    ),
    Guard(
        "a command to type next names the target",
        "gaudi_patch/target/invocation.py",
        "    if target.python is not None:\n",
        "    if False:\n",
        ("tests/commands/test_next_lines.py", "tests/cli/test_exit_codes.py"),
    ),
    Guard(
        "a command to type next is quoted for the shell",
        "gaudi_patch/target/invocation.py",
        "    return shlex.join(words)\n",
        '    return " ".join(words)\n',
        ("tests/commands/test_next_lines.py", "tests/engine/test_way_out.py"),
    ),
    Guard(
        "what is committed and cannot be re-read is exit 6",
        "gaudi_patch/engine/apply.py",
        '            Exit.HUMAN,\n            "unverified",\n',
        '            Exit.ENVIRONMENT,\n            "unverified",\n',
        _REREAD,
    ),
    Guard(
        "what is committed and cannot be re-read is said to be committed",
        "gaudi_patch/engine/apply.py",
        'f"{progress.words()}, and was read back before the commit; but it could',
        'f"nothing was changed, and was read back before the commit; but it could',
        _REREAD,
    ),
    Guard(
        "a committed rollback that cannot be re-read is no unchanged target",
        "gaudi_patch/engine/rollback.py",
        "    with reading_again(before, progress):\n",
        "    if True:\n",
        _REREAD,
    ),
    Guard(
        "an undo says how many files it could not restore",
        "gaudi_patch/engine/undo.py",
        "    if done.failed:\n        count",
        "    if False:\n        count",
        _UNDO,
    ),
    Guard(
        "an undo names each file that it could not restore",
        "gaudi_patch/engine/undo.py",
        '    details = [f"not restored: {path}: {_why(fault)}" for path, fault in done.failed]\n',
        "    details: list[str] = []\n",
        _UNDO,
    ),
    Guard(
        "an undo that restored every target says so",
        "gaudi_patch/engine/undo.py",
        '    state = "every target was restored, but other files were left behind"\n',
        '    state = "some files could not be restored"\n',
        _UNDO,
    ),
    Guard(
        "the error about a mount says what is mounted",
        "gaudi_patch/engine/guard.py",
        'f"is a separate mount ({mounts[os.fspath(path)]}), which',
        'f"is busy, which',
        _MOUNTS,
    ),
    Guard(
        "the error about a mount says what to do",
        "gaudi_patch/engine/guard.py",
        '"patch it at its source, or start the container without this mount (-v FILE:FILE) and "',
        '"try again, or "',
        _MOUNTS,
    ),
    Guard(
        "a mount that no table lists is explained",
        "gaudi_patch/disk.py",
        '        "EBUSY": "a file that is itself a mount (container -v FILE:FILE) cannot be replaced",\n',
        "",
        _MOUNTS,
    ),
    Guard(
        "an error of a replacement names the target",
        "gaudi_patch/disk.py",
        "with _parent(source, self.bounds) as origin, _parent(target, self.bounds) as folder:\n"
        '            self.step("replace", target)\n',
        "with _parent(target, self.bounds) as folder, _parent(source, self.bounds) as origin:\n"
        '            self.step("replace", target)\n',
        _MOUNTS,
    ),
    # git
    Guard(
        "no git setting of the user makes a patch another one",
        "gaudi_patch/authoring/git_settings.py",
        '    "diff.suppressBlankEmpty": "false",\n',
        '    "diff.suppressBlankEmpty": "true",\n',
        _GIT,
    ),
    Guard(
        "the user's git configuration is not read",
        "gaudi_patch/authoring/git_settings.py",
        '    "GIT_CONFIG_GLOBAL": "/dev/null",\n',
        "",
        _GIT,
    ),
    Guard(
        "no GIT_ variable of the user counts",
        "gaudi_patch/authoring/git_settings.py",
        "    for name in before:\n        del os.environ[name]\n",
        "",
        _GIT,
    ),
)
