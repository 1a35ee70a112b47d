"""A wheel patched before installation: recognized, never patched again, never rolled back."""

from __future__ import annotations

import json
import py_compile
import shlex
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gaudi_patch.attestation.against import compare_with
from gaudi_patch.commands import check as checking
from gaudi_patch.commands.rollback import rolled_back
from gaudi_patch.engine import verdicts
from gaudi_patch.engine.plan import State
from gaudi_patch.engine.rollback import RollbackOptions
from gaudi_patch.engine.situation import look
from gaudi_patch.errors import Exit, GaudiPatchError
from gaudi_patch.target.installation import Target
from tests.support import patched_wheel, tiny
from tests.support.patched_wheel import Release
from tests.support.tiny import PATCHED, PRISTINE, Tiny


@pytest.fixture
def release(tmp_path: Path) -> Release:
    return patched_wheel.release(tmp_path)


@pytest.fixture
def target(release: Release, tmp_path: Path) -> Tiny:
    """Return an installed patched wheel."""
    return patched_wheel.installed(tmp_path, release)


def rewrite(target: Tiny, edit: Callable[[dict[str, Any]], object]) -> None:
    file = target.state_dir / "attestation.json"
    document = json.loads(file.read_bytes())
    edit(document)
    file.write_text(json.dumps(document))


def test_check_says_that_the_wheel_was_patched_and_by_which_series(target: Tiny) -> None:
    result = target.check()
    assert (result.exit, result.data["state"], result.warnings) == (Exit.OK, "patched", [])
    assert result.data["built"]["series"] == "0.5.6"
    assert result.data["built"]["release"] == "0.5.6"
    assert result.data["built"]["wheel"] == "lmcache-0.5.6-py3-none-any.whl"
    assert result.data["applied_series"] is None


def test_apply_writes_nothing_and_says_why(target: Tiny) -> None:
    before = tiny.tree(target.site, times=True)
    result = target.apply()
    assert (result.exit, result.data["changed"]) == (Exit.OK, False)
    assert "the wheel was built with series 0.5.6" in str(result.blocks)
    assert tiny.tree(target.site, times=True) == before


def test_rollback_names_the_wheel_to_install_instead(target: Tiny) -> None:
    before = tiny.tree(target.site, times=True)
    with pytest.raises(GaudiPatchError) as refused:
        rolled_back(target.manifest, target.installation, RollbackOptions())
    assert (refused.value.exit, refused.value.code) == (Exit.REFUSED, "built-in")
    command = shlex.split(refused.value.hint.split("`")[1])
    assert command[-1] == "lmcache===0.5.6"  # == would also match the patched wheel, if an index has both
    assert "lmcache-0.5.6-py3-none-any.whl" in refused.value.hint
    assert tiny.tree(target.site, times=True) == before


@pytest.mark.parametrize("path", ["lmcache/engine.py", "lmcache/gaudi/kernels.py", "lmcache/v1/old.py"])
def test_a_file_that_was_changed_since_is_drift_and_never_patched_over(path: str, target: Tiny) -> None:
    (target.site / path).write_bytes(PRISTINE.get(path, b"edited\n"))
    result = target.check()
    assert result.exit is Exit.REFUSED
    (fault,) = result.errors
    assert fault.code == "drift"
    assert path in str(fault.details)
    assert "lmcache==0.5.6+gaudi.1" in fault.hint
    with pytest.raises(GaudiPatchError) as refused:
        target.apply()
    assert refused.value.code == "drift"


def test_a_release_put_back_by_hand_is_not_taken_for_patched(target: Tiny) -> None:
    for path in PATCHED:
        (target.site / path).unlink(missing_ok=True)
        if path in PRISTINE:
            (target.site / path).write_bytes(PRISTINE[path])
    assert target.check().exit is Exit.REFUSED
    with pytest.raises(GaudiPatchError):
        target.apply()


def test_a_series_that_has_changed_since_asks_for_another_build(release: Release, target: Tiny) -> None:
    directory = release.manifest.directory
    newer = {**PATCHED, "lmcache/gaudi/kernels.py": b"BLOCK = 256\n"}
    patch = tiny.patch(PRISTINE, newer, tiny.EXECUTABLE)
    manifest = tiny.write_manifest(directory, {"0.5.6": {"tiny.patch": patch}}, {"0.5.6": release.wheel})
    found = look(manifest, replace(target.installation, target=Target(path=target.site)))
    assert found.state is State.OUTDATED
    fault = verdicts.fault_of(found)
    assert fault is not None and fault.code == "built-otherwise"
    assert "gaudi-patch wheel 0.5.6 --build 2" in fault.hint
    assert f"`gaudi-patch check --against FILE --path {target.site} --manifest {directory}`" in fault.hint
    assert checking.checked(manifest, target.installation).exit is Exit.REFUSED


def test_a_manifest_without_the_series_still_knows_what_was_built(release: Release, target: Tiny) -> None:
    manifest = release.manifest._replace(series=())
    result = checking.checked(manifest, target.installation)
    assert (result.exit, result.data["state"]) == (Exit.OK, "patched")
    assert "the manifest no longer has it" in result.warnings[0]


def test_bytecode_of_another_source_is_found_and_how_to_remove_it(target: Tiny) -> None:
    source = target.site / "lmcache" / "engine.py"
    patched = source.read_bytes()
    source.write_bytes(PRISTINE["lmcache/engine.py"])
    py_compile.compile(str(source), invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
    source.write_bytes(patched)
    with pytest.raises(GaudiPatchError) as refused:
        target.apply()
    assert refused.value.code == "stale-bytecode"
    assert refused.value.hint.startswith("`rm ")
    assert target.check().exit is Exit.REFUSED
    shutil.rmtree(source.parent / "__pycache__")
    assert target.check().exit is Exit.OK


def test_it_is_as_its_own_attestation_says_until_a_file_is_changed(target: Tiny) -> None:
    file = target.state_dir / "attestation.json"
    compared = compare_with(target.manifest, target.installation, file)
    assert (compared.differences, compared.files) == ((), len(PATCHED))
    (target.site / "lmcache" / "engine.py").write_bytes(b"")
    compared = compare_with(target.manifest, target.installation, file)
    assert [one.what for one in compared.differences] == ["lmcache/engine.py"]


BROKEN: dict[str, Callable[[dict[str, Any]], object]] = {
    "another outcome": lambda found: found.update(outcome="applied"),
    "a path out of the package": lambda found: found["files"][0].update(path="../other.py"),
    "a path of another package": lambda found: found["files"][0].update(path="vllm/engine.py"),
    "a hash that is none": lambda found: found["files"][0].update(after="0"),
    "no file": lambda found: found.update(files=[]),
    "a release that is an option": lambda found: found["release"].update(version="--index-url=x"),
    "a release that is two words": lambda found: found["release"].update(version="0.5.6 evil"),
    "no release": lambda found: found.pop("release"),
    "a series that is a number": lambda found: found["series"].update(id=1),
    "a fraction": lambda found: found.update(created=1.5),
}


@pytest.mark.parametrize("what", BROKEN)
def test_an_attestation_that_cannot_be_understood_is_not_guessed_at(what: str, target: Tiny) -> None:
    rewrite(target, BROKEN[what])
    with pytest.raises(GaudiPatchError) as refused:
        target.check()
    assert (refused.value.exit, refused.value.code) == (Exit.HUMAN, "state-damaged")
    assert "lmcache==0.5.6+gaudi.1" in refused.value.hint


def test_an_attestation_of_a_newer_gaudi_patch_asks_for_an_upgrade(target: Tiny) -> None:
    rewrite(target, lambda found: found.update(schema_version=2))
    with pytest.raises(GaudiPatchError) as refused:
        target.check()
    assert refused.value.code == "state-newer"
