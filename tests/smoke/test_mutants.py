"""The smoke checks alone detect every one of these faults of the patched LMCache.

A run tests every eighth fault; ``GAUDI_PATCH_TEST_FULL=1`` tests all, as ``python -m tests.scripts.mutants`` does.
Faults that only a level with vLLM detects need an environment of 3 GB: ``GAUDI_PATCH_TEST_PAIRS`` asks for their pair.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gaudi_patch.series import diff, manifest
from gaudi_patch.series.hunks import Hunk
from tests.scripts import mutants as command
from tests.smoke.conftest import explain
from tests.smoke.guard_mutants import GUARD_MUTANTS
from tests.smoke.multiprocess_mutants import MULTIPROCESS_MUTANTS
from tests.smoke.mutants import MUTANTS, Mutant
from tests.smoke.old_routing_mutants import OLD, OLD_ROUTING_MUTANTS
from tests.smoke.routing_mutants import ROUTING_MUTANTS
from tests.support import vllm_pairs
from tests.support.environments import Environment, EnvironmentUnavailableError
from tests.support.unavailable import unavailable

PATCHES = Path(__file__).resolve().parents[2] / "patches"
FULL = os.environ.get("GAUDI_PATCH_TEST_FULL") == "1"
PAIRS = [str(pair) for pair in vllm_pairs.pairs_of(os.environ.get("GAUDI_PATCH_TEST_PAIRS", ""))]
#: Added lines of 0.3.9's hunks that have no mutant.
WITHOUT = {
    # For layerwise transfer, which is refused.
    b"                slot_mapping = slot_mapping.to(self.device)\n",
}
Make = Callable[[Mutant], Environment]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Return a function for the mutant's patched environment, which the tests edit one after the other."""
    made: dict[tuple[str, bool], Environment] = {}

    def make(mutant: Mutant) -> Environment:
        pair = f"{mutant.release}x{command.VLLM[mutant.release]}" if mutant.needs_vllm else ""
        if pair and pair not in PAIRS:
            pytest.skip(f"vLLM takes 3 GB: ask for it with GAUDI_PATCH_TEST_PAIRS={pair}")
        key = (mutant.release, mutant.needs_vllm)
        if key not in made:
            folder = tmp_path_factory.mktemp("mutants")
            try:
                made[key] = command.environment(folder, mutant.release, vllm=mutant.needs_vllm)
            except EnvironmentUnavailableError as error:
                unavailable(error)
        return made[key]

    return make


def routing_hunks(release: str) -> Iterator[tuple[str, str, Hunk]]:
    """Yield topic, file and hunk of all that a series changes in LMCache's own files, imports apart."""
    shipped = manifest.load(PATCHES)
    series = shipped.verdict(release).series
    assert series is not None
    for patch in series.patches:
        topic = patch.partition("/")[0]
        for file in () if topic == "runtime" else diff.parse(shipped.patch_bytes(patch), patch):
            for hunk in file.hunks:
                added = [text.strip() for tag, text in hunk.lines if tag == b"+" and text.strip()]
                if any(tag == b"+" and text in WITHOUT for tag, text in hunk.lines):
                    continue
                if not all(text.startswith((b"from ", b"import ", b"#")) for text in added):
                    yield topic, file.path, hunk


def changes(mutant: Mutant, hunk: Hunk) -> bool:
    """Return whether the mutant edits what the hunk adds."""
    text = mutant.old.encode()
    return text in b"".join(hunk.new) and text not in b"".join(hunk.old)


def test_there_are_at_least_180_and_no_two_alike() -> None:
    assert len({(one.release, one.file, one.old, one.new) for one in MUTANTS}) == len(MUTANTS) >= 180
    assert len({one.name for one in MUTANTS}) == len(MUTANTS)
    assert {*GUARD_MUTANTS, *MULTIPROCESS_MUTANTS, *ROUTING_MUTANTS, *OLD_ROUTING_MUTANTS} < set(MUTANTS)


@pytest.mark.parametrize("release", [command.RELEASE, OLD])
def test_every_hunk_of_a_series_has_a_mutant(release: str) -> None:
    mutants = [one for one in MUTANTS if one.release == release]
    without = [
        (topic, file, b"".join(hunk.new).decode())
        for topic, file, hunk in routing_hunks(release)
        if not any(one.file == file and changes(one, hunk) for one in mutants)
    ]
    assert not without


def test_every_topic_of_the_patches_is_in_a_series_with_mutants() -> None:
    topics = {topic for release in (command.RELEASE, OLD) for topic, _, _ in routing_hunks(release)}
    assert topics == {path.name for path in PATCHES.iterdir() if path.is_dir()} - {"runtime"}


def test_every_edit_of_the_runtime_fits_it_exactly_once() -> None:
    # Cheap: if a change of the runtime moves a mutant's place, this fails before the mutants run.
    for one in MUTANTS:
        if one.file.startswith("lmcache/gaudi/"):
            assert (PATCHES / "runtime" / one.file).read_text().count(one.old) == 1, one.name
        assert one.old != one.new


def test_a_sample_has_every_level_release_and_kind() -> None:
    sample = command.sample(8)
    assert {(one.release, one.level) for one in sample} == {(one.release, one.level) for one in MUTANTS}
    for kind in (GUARD_MUTANTS, MULTIPROCESS_MUTANTS, ROUTING_MUTANTS, OLD_ROUTING_MUTANTS):
        assert set(sample) & set(kind)
    assert len(sample) < len(MUTANTS) / 3


def test_a_mutant_that_does_not_fit_is_an_error_and_leaves_the_file(tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text("a = 1\na = 1\n")
    for old, new, error in (("a = 1", "a = 2", ValueError), ("b", "c", ValueError), ("a = 1\na", "(", SyntaxError)):
        with pytest.raises(error), Mutant("a fault", "module.py", old, new).put_into(tmp_path):
            pass
        assert (tmp_path / "module.py").read_text() == "a = 1\na = 1\n"


@pytest.mark.wheels
@pytest.mark.torch
@pytest.mark.parametrize("mutant", MUTANTS if FULL else command.sample(8), ids=lambda one: one.name)
def test_the_fault_fails_a_smoke_level(mutant: Mutant, environment: Make) -> None:
    result = command.run(mutant, environment(mutant))
    assert command.is_killed(result), explain([result])
