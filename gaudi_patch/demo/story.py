"""Run all steps of the demo in a throwaway environment, with a real LMCache from PyPI."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from gaudi_patch.demo import needs, setup, vllm
from gaudi_patch.engine.apply import ApplyOptions, apply
from gaudi_patch.engine.rollback import RollbackOptions, rollback
from gaudi_patch.engine.situation import Situation
from gaudi_patch.engine.verdicts import assess
from gaudi_patch.errors import Exit, GaudiPatchError
from gaudi_patch.output.progress import leaves, say, step
from gaudi_patch.series.manifest import Manifest, load
from gaudi_patch.smoke import checks as smoke
from gaudi_patch.smoke.outcome import LevelResult
from gaudi_patch.target.installation import Installation
from gaudi_patch.target.locate import Target, locate

#: The counters in the table, with their labels.
COUNTERS = {
    "graph_launches": "graph launches",
    "graph_compilation": "graphs compiled",
    "device_syncs": "device synchronizations",
    "h2d_copies": "copies to the device",
    "d2h_copies": "copies to the host",
    "bounce_bytes": "bytes bounced by the bridge",
    "device_traffic_bytes": "bytes moved on the device",
}


@dataclass(frozen=True)
class DemoOptions:
    """The options of `demo`.

    ``torch``: the requirement for PyTorch, "" for no smoke checks. ``full`` adds vLLM.
    """

    version: str = ""
    keep: Path | None = None
    torch: str = "torch==2.13.0"
    quiet: bool = False
    full: bool = False


class Step(NamedTuple):
    """One step: whether it ended as expected, how it ended, and its duration in seconds (None: not timed)."""

    name: str
    good: bool
    ending: str
    seconds: float | None = None


class _Ending(NamedTuple):
    """The end of a command: its exit code, and the state or the error."""

    exit: Exit
    what: str


@dataclass
class Story:
    """The steps so far, and the smoke results of the unpatched (``stock``) and the patched release."""

    version: str
    kept: Path | None
    steps: list[Step] = field(default_factory=list)
    stock: list[LevelResult] = field(default_factory=list)
    patched: list[LevelResult] = field(default_factory=list)
    core_seconds: float = 0.0

    @property
    def failed(self) -> list[Step]:
        """Return the steps that did not end as expected."""
        return [step for step in self.steps if not step.good]

    def counters(self) -> dict[str, list[tuple[str, str, str]]]:
        """Return, by request, the counters of both releases in lazy mode, as rows of label, unpatched, patched.

        "-" means that the unpatched release did not get so far.
        """
        stock, patched = _workloads(self.stock), _workloads(self.patched)
        return {
            request: [
                (name, str(stock.get(request, {}).get(key, "-")), str(counts[key]))
                for key, name in COUNTERS.items()
                if key in counts
            ]
            for request, counts in patched.items()
        }

    def step(self, name: str, wanted: Exit, run: Callable[[], _Ending]) -> None:
        """Run one step, and record and print how it ended."""
        started = time.perf_counter()
        try:
            ending = run()
        except GaudiPatchError as error:
            ending = _Ending(error.exit, str(error))
        seconds = time.perf_counter() - started
        self.steps.append(Step(name, ending.exit is wanted, f"exit {int(ending.exit)}: {ending.what}", seconds))
        say(f"  {name}: {self.steps[-1].ending} in {seconds:.3f} s")

    def compare(self, root: Path, before: dict[str, str]) -> None:
        """Compare every file below ``root`` with its hash ``before``."""
        with step("comparing every installed file"):
            identical = setup.tree(root) == before
        self.steps.append(Step("compare", identical, "every byte as installed" if identical else "bytes differ"))
        say(f"  compare: {self.steps[-1].ending}")


def demo(options: DemoOptions) -> Story:
    """Show in seconds what gaudi-patch does, with LMCache alone; then prove it, with PyTorch.

    The demo succeeds if every step ends as expected and each part leaves the tree byte for byte as installed. The
    unpatched release goes through the same checks for comparison only; its results do not affect success. Anything
    missing is reported before anything is created or downloaded.
    """
    manifest = load()
    version = needs.release(manifest, options.version, vllm=options.full)
    needs.refuse_unserved(options.torch)
    proves = bool(options.torch)
    leaves("nothing was created or downloaded")
    with step("checking what the demo needs"):
        lacks = needs.missing(manifest.package, version, options.keep, torch=proves, vllm=options.full)
    needs.refuse(lacks)
    with setup.folder(options.keep) as folder:
        story = Story(version, folder if options.keep else None)
        started = time.perf_counter()
        say(f"{'1 of 2: ' if proves else ''}what it does, with LMCache {version} from PyPI, without PyTorch")
        with step(f"creating an environment in {folder}"):
            python = setup.environment(folder)
        setup.install_lmcache(python, f"{manifest.package}=={version}")
        target = locate(Target(python=python), manifest.package)
        _core(story, manifest, target)
        story.core_seconds = time.perf_counter() - started
        if proves and not story.failed:
            say("2 of 2: the proof, with PyTorch on the emulated HPU")
            needs.refuse_cuda_without_room(setup.install_torch(python, options.torch), folder)
            setup.install_proof(python, options.torch, vllm=options.full)
            _proof(story, manifest, target, options)
    return story


def _core(story: Story, manifest: Manifest, target: Installation) -> None:
    """Run check, apply, check, apply again, rollback and check, then compare the files."""
    commands = _Commands(manifest, target)
    before = setup.tree(target.root)
    story.step("check", Exit.PENDING, commands.check)
    story.step("apply", Exit.OK, commands.apply)
    if not story.failed:
        story.step("check", Exit.OK, commands.check)
        story.step("apply again", Exit.OK, commands.apply)
        story.step("rollback", Exit.OK, commands.rollback)
        story.step("check", Exit.PENDING, commands.check)
    story.compare(target.root, before)


def _proof(story: Story, manifest: Manifest, target: Installation, options: DemoOptions) -> None:
    """Run the smoke checks on the unpatched and the patched release, roll back, and compare the files."""
    commands = _Commands(manifest, target)
    with step("reading every installed file, to compare them at the end"):
        before = setup.tree(target.root)
    say("  the unpatched release, for comparison:")
    wanted = ("kernels", *(vllm.LEVELS if options.full else ()))
    chosen = smoke.SmokeOptions(wanted, "emulated", ("lazy",), quiet=options.quiet, arguments=vllm.STOCK_ARGUMENTS)
    story.stock = smoke.run(target, chosen)
    story.step("apply", Exit.OK, commands.apply)
    if story.failed:
        return  # nothing is patched, so there is nothing to prove or roll back
    every = smoke.SmokeOptions(device="emulated", require=smoke.AFTER_APPLY, quiet=options.quiet)
    story.step("smoke", Exit.OK, lambda: _prove(story, target, every))
    if options.full:
        with_vllm = smoke.SmokeOptions(vllm.LEVELS, "emulated", ("lazy",), require=vllm.LEVELS, quiet=options.quiet)
        story.step("smoke with vLLM", Exit.OK, lambda: _prove(story, target, with_vllm))
    story.step("rollback", Exit.OK, commands.rollback)
    story.step("check", Exit.PENDING, commands.check)
    story.compare(target.root, before)


class _Commands(NamedTuple):
    """The demo's commands on one installation; each returns how it ended."""

    manifest: Manifest
    target: Installation

    def check(self) -> _Ending:
        assessed = assess(self.manifest, self.target)
        return _Ending(assessed.exit, str(assessed.fault) if assessed.fault else _state(assessed.situation))

    def apply(self) -> _Ending:
        return _Ending(Exit.OK, _state(apply(self.manifest, self.target, ApplyOptions()).after))

    def rollback(self) -> _Ending:
        return _Ending(Exit.OK, _state(rollback(self.manifest, self.target, RollbackOptions()).after))


def _state(situation: Situation) -> str:
    return situation.state.value if situation.state else "nothing to patch"


def _prove(story: Story, installation: Installation, chosen: smoke.SmokeOptions) -> _Ending:
    levels = smoke.run(installation, chosen)
    story.patched += levels
    fault = smoke.fault_of(levels, chosen)
    passed = sum(level.status == "passed" for level in levels)
    ending = _Ending(Exit.OK, f"{passed} of {len(levels)} levels passed")
    return ending if fault is None else _Ending(fault.exit, str(fault))


def _workloads(levels: list[LevelResult]) -> Mapping[str, Mapping[str, int]]:
    """Return the counts of level kernels in lazy mode, by workload."""
    counted = (level.counters.workloads for level in levels if level.level == "kernels" and level.rules == "lazy")
    return next(counted, {})
