"""Guards that keep a target from doing harm and a run from making false claims, with an edit that removes each.

``python -m tests.scripts.safety_mutants`` makes these edits and runs the tests named with them.
"""

from __future__ import annotations

from typing import NamedTuple


class Guard(NamedTuple):
    """One guard of the product.

    Attributes:
        name: What it does.
        file: Its file, relative to the checkout.
        code: Text that occurs exactly once; ``without`` replaces it.
        tests: Test files, one of which must fail.
    """

    name: str
    file: str
    code: str
    without: str
    tests: tuple[str, ...]


_BOUNDS = ("tests/engine/test_guard.py", "tests/engine/test_hostile_targets.py", "tests/test_opening.py")
_STATE = ("tests/engine/test_guard.py", "tests/engine/test_strict.py", "tests/engine/test_hostile_targets.py")
_UNDO = ("tests/engine/test_undo.py", "tests/engine/test_recovery.py")
_PROOF = ("tests/attestation/test_prove.py", "tests/engine/test_apply_proof.py")
_REREAD = ("tests/attestation/test_prove.py", "tests/engine/test_true_words.py")
_MOUNTS = ("tests/engine/test_mounted_files.py",)
_PRINTED = ("tests/output/test_escape.py", "tests/cli/test_github.py", "tests/cli/test_printing.py")
_GIT = ("tests/authoring/test_git_settings.py", "tests/authoring/test_lint.py")

GUARDS = (
    # Bytecode
    Guard(
        "bytecode belongs to the directory of its source",
        "gaudi_patch/engine/bytecode.py",
        "    if path.parent not in cache_directories(source, pycache_prefix):\n        return None\n",
        "",
        ("tests/engine/test_bytecode.py", "tests/engine/test_bytecode_updates.py"),
    ),
    Guard(
        "bytecode of unknown bytes is judged",
        "gaudi_patch/engine/bytecode_check.py",
        "    if unknown:\n",
        "    if False:\n",
        ("tests/engine/test_bytecode_check.py",),
    ),
    # Paths
    Guard(
        "links on the way are refused",
        "gaudi_patch/confined.py",
        'if not area.links or part == "__pycache__" or len(names) < len(area.parts):',
        "if False:",
        _BOUNDS,
    ),
    Guard(
        "__pycache__ is no link, even in the package",
        "gaudi_patch/confined.py",
        'if not area.links or part == "__pycache__" or',
        "if not area.links or",
        _BOUNDS,
    ),
    Guard(
        "a link that is followed stays inside",
        "gaudi_patch/confined.py",
        "                    if inside is None:\n                        raise leads_out(path, link) from None\n",
        "                    if inside is None:\n                        return os.open(link, WALK)\n",
        _BOUNDS,
    ),
    Guard(
        "links that are swapped in afterwards are not followed",
        "gaudi_patch/opening.py",
        "WALK = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC",
        "WALK = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC",
        _BOUNDS,
    ),
    Guard(
        "paths of state and journal lie in the package",
        "gaudi_patch/engine/guard.py",
        "        if not self.bounds.holds(path) and not self._is_other_cache(path):\n",
        "        if False:\n",
        _STATE,
    ),
    Guard(
        "no directory outside is made or removed",
        "gaudi_patch/engine/guard.py",
        "        if not self.bounds.holds_directory(path):\n",
        "        if False:\n",
        _STATE,
    ),
    Guard(
        "no mode beyond the original's is taken",
        "gaudi_patch/engine/guard.py",
        "    mode = image.mode & (0o755 | rights & 0o7022 | package.st_mode & 0o022)\n",
        "    mode = image.mode\n",
        _STATE,
    ),
    Guard(
        "no owner of a file's choice is taken",
        "gaudi_patch/engine/guard.py",
        "kept = image.owner if image.owner is None or image.owner in allowed else",
        "kept = image.owner if True else",
        _STATE,
    ),
    Guard(
        "temporary files have our names",
        "gaudi_patch/engine/journal.py",
        "    if temp.parent != path.parent or not TEMPORARY.fullmatch(temp.name):\n",
        "    if temp.parent != path.parent:\n",
        _STATE,
    ),
    Guard(
        "what is no regular file is not opened",
        "gaudi_patch/reading.py",
        "    if not stat.S_ISREG(info.st_mode):\n        kind",
        "    if False:\n        kind",
        ("tests/test_reading.py", "tests/target/test_hostile_files.py"),
    ),
    Guard(
        "files are read up to a limit",
        "gaudi_patch/reading.py",
        "            if size > limit:  #",
        "            if False:  #",
        ("tests/test_reading.py", "tests/target/test_hostile_files.py"),
    ),
    Guard(
        "files of the package are read up to a limit",
        "gaudi_patch/opening.py",
        "            if len(data) <= limit:\n                return data\n",
        "            return data + stream.read()\n        return stream.read()\n",
        _BOUNDS,
    ),
    Guard(
        "a document of a target is not nested without end",
        "gaudi_patch/engine/strict.py",
        "    except RecursionError:\n",
        "    except ZeroDivisionError:\n",
        _STATE,
    ),
    Guard(
        "a target that is a mount is refused first",
        "gaudi_patch/engine/guard.py",
        "        if os.fspath(path) in mounts:\n",
        "        if False:\n",
        ("tests/engine/test_mounted_files.py",),
    ),
    Guard(
        "a file gets no ACL from its directory",
        "gaudi_patch/attributes.py",
        "        os.removexattr(descriptor, ACL)\n",
        "        pass\n",
        ("tests/engine/test_attributes.py",),
    ),
    Guard(
        "the ACL of a file is kept",
        "gaudi_patch/attributes.py",
        'if name == ACL or name.startswith("user.")',
        'if name.startswith("user.")',
        ("tests/engine/test_attributes.py",),
    ),
    Guard(
        "a device that others can write is not loaded",
        "gaudi_patch/emulator/build.py",
        "        elif status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):\n",
        "        elif status.st_mode & stat.S_IWOTH:\n",
        ("tests/emulator/test_build.py",),
    ),
    # After a fault
    Guard(
        "an undo goes on past an error",
        "gaudi_patch/engine/undo.py",
        "        faults.append((path, error))\n",
        "        faults.append((path, error))\n        raise\n",
        _UNDO,
    ),
    Guard(
        "an undo that did not finish is exit 6",
        "gaudi_patch/engine/undo.py",
        '    return GaudiPatchError(\n        Exit.HUMAN,\n        "journal-damaged" if lost',
        '    return GaudiPatchError(\n        Exit.ENVIRONMENT,\n        "journal-damaged" if lost',
        _UNDO,
    ),
    Guard(
        "a journal is said to be kept where it is",
        "gaudi_patch/engine/undo.py",
        '    kept_text = f"the journal is kept in {ground.home}" if kept else "no journal could be kept"\n',
        '    kept_text = f"the journal is kept in {ground.home}"\n',
        _UNDO,
    ),
    Guard(
        "the journal of a release that is gone is cleared",
        "gaudi_patch/engine/orphans.py",
        "    for orphan in list(find(installation)):\n",
        "    for orphan in []:\n",
        ("tests/engine/test_orphans.py",),
    ),
    Guard(
        "the journal of an installation that was replaced is cleared",
        "gaudi_patch/engine/orphans.py",
        "    if not _installed_anew(left, ground, installation.record, rows):\n",
        "    if True:\n",
        ("tests/engine/test_orphans.py",),
    ),
    Guard(
        "a saved copy is whole under its name",
        "gaudi_patch/engine/saved_copies.py",
        "    return Found.PART if data.startswith(content) else Found.OTHER\n",
        "    return Found.OTHER\n",
        ("tests/engine/test_saved_copies.py",),
    ),
    Guard(
        "where nothing can be locked nothing is written",
        "gaudi_patch/engine/locking.py",
        "        if error.errno not in UNSUPPORTED:\n            raise\n        raise GaudiPatchError(",
        "        if error.errno not in UNSUPPORTED:\n            raise\n        return\n        raise GaudiPatchError(",
        ("tests/engine/test_locking.py",),
    ),
    Guard(
        "who holds the lock is named",
        "gaudi_patch/engine/locking.py",
        'f" (waited {timeout:g} s)", holder_of(descriptor))',
        'f" (waited {timeout:g} s)")',
        ("tests/engine/test_locking.py",),
    ),
    Guard(
        "a working process is not taken for an interrupted run",
        "gaudi_patch/engine/locking.py",
        "        yield None if free else holder_of(descriptor)\n",
        "        yield None\n",
        ("tests/engine/test_concurrency.py", "tests/engine/test_locking.py"),
    ),
    Guard(
        "check names the process that works, and calls nothing interrupted",
        "gaudi_patch/engine/verdicts.py",
        "locked(folder, holder=writer) if writer is not None else interrupted(situation)",
        "locked(folder) if writer is not None else interrupted(situation)",
        ("tests/engine/test_concurrency.py",),
    ),
    Guard(
        "a RECORD that cannot be looked at is not taken for missing",
        "gaudi_patch/target/site_folder.py",
        'has_record=is_file(Path(resolve(os.path.join(path, "RECORD")))),',
        'has_record=os.path.isfile(resolve(os.path.join(path, "RECORD"))),',
        ("tests/test_opening.py",),
    ),
    Guard(
        "the group of a program is killed",
        "gaudi_patch/target/process.py",
        "                os.killpg(self._process.pid, signal.SIGKILL)",
        "                os.kill(self._process.pid, signal.SIGKILL)",
        ("tests/smoke/test_runner.py", "tests/target/test_children.py"),
    ),
    Guard(
        "programs die with the run that was killed",
        "gaudi_patch/target/process.py",
        "                self._lifeline.tie(-self._process.pid)\n",
        "                pass\n",
        ("tests/target/test_children.py",),
    ),
    Guard(
        "SIGHUP undoes as SIGTERM does",
        "gaudi_patch/engine/progress.py",
        "signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT})",
        "signal.SIGTERM})",
        ("tests/engine/test_interrupts.py", "tests/attestation/test_prove.py", "tests/engine/test_apply_proof.py"),
    ),
    Guard(
        "an answer of an interpreter has a limit",
        "gaudi_patch/target/ask.py",
        "            self.overflow = not ended and len(self._data) > self._limit\n",
        "",
        ("tests/target/test_ask.py", "tests/target/test_hostile_interpreters.py"),
    ),
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
