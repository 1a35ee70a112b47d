"""Run the whole story in a throwaway environment, with a real LMCache from PyPI."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from gaudi_patch.demo import needs, setup, vllm
from gaudi_patch.engine.apply import ApplyOptions, apply
from gaudi_patch.engine.rollback import RollbackOptions, rollback
from gaudi_patch.engine.situation import Situation
from gaudi_patch.engine.verdicts import assess
from gaudi_patch.errors import Exit, GaudiPatchError
from gaudi_patch.output.report import narrate
from gaudi_patch.series.manifest import Manifest, load
from gaudi_patch.smoke import checks as smoke
from gaudi_patch.smoke.outcome import LevelResult
from gaudi_patch.target.installation import Installation
from gaudi_patch.target.locate import Target, locate

#: What the table of counters shows, and how it is called there.
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
    """What `demo` was asked for.

    ``torch`` is the requirement of a PyTorch for the CPU, "" for no smoke checks; ``full`` adds vLLM.
    """

    version: str = ""
    keep: Path | None = None
    torch: str = "torch==2.13.0"
    quiet: bool = False
    full: bool = False


class Step(NamedTuple):
    """One step: whether it ended as it must, how it ended, and how long it took (None: not timed)."""

    name: str
    good: bool
    ending: str
    seconds: float | None = None


class _Ending(NamedTuple):
    """How a command ended: its exit code, and the state or what went wrong."""

    exit: Exit
    what: str


@dataclass
class Story:
    """All steps so far, and what the smoke checks said of the unpatched (``stock``) and of the patched release."""

    version: str
    kept: Path | None
    steps: list[Step] = field(default_factory=list)
    stock: list[LevelResult] = field(default_factory=list)
    patched: list[LevelResult] = field(default_factory=list)

    @property
    def failed(self) -> list[Step]:
        """The steps that did not end as they must."""
        return [step for step in self.steps if not step.good]

    def counters(self) -> dict[str, list[tuple[str, str, str]]]:
        """Return the counters of each request that the patched release was counted on, in lazy mode.

        "-" stands where the unpatched release did not get so far.
        """
        stock, patched = _lazy_counters(self.stock), _lazy_counters(self.patched)
        return {
            request: [
                (name, str(stock.get(request, {}).get(key, "-")), str(counts[key]))
                for key, name in COUNTERS.items()
                if key in counts
            ]
            for request, counts in patched.items()
            if isinstance(counts, dict)
        }

    def step(self, name: str, wanted: Exit, run: Callable[[], _Ending]) -> None:
        """Run one step, note how it ended, and narrate it."""
        started = time.perf_counter()
        try:
            ending = run()
        except GaudiPatchError as error:
            ending = _Ending(error.exit, str(error))
        seconds = time.perf_counter() - started
        self.steps.append(Step(name, ending.exit is wanted, f"exit {int(ending.exit)}: {ending.what}", seconds))
        narrate([f"  {name}: exit {int(ending.exit)} in {seconds:.3f} s"])


def demo(options: DemoOptions) -> Story:
    """Install LMCache into a new environment and run check, apply, smoke, rollback and check on it.

    All went well when every step ended as it must and the tree is, to the byte, what the installer left. The
    unpatched release is put through the same checks first, for the record of what the patch changes; how it fares
    there decides nothing. What is missing here is told before anything is made or downloaded.
    """
    manifest = load()
    version = needs.release(manifest, options.version, vllm=options.full)
    needs.refuse_unserved(options.torch)
    needs.refuse(needs.missing(manifest.package, version, options.keep, torch=bool(options.torch), vllm=options.full))
    with setup.folder(options.keep) as folder:
        story = Story(version, folder if options.keep else None)
        with setup.progress(f"making an environment in {folder}"):
            python = setup.environment(folder)
        setup.install_lmcache(python, f"{manifest.package}=={version}", options.torch, vllm=options.full)
        installation = locate(Target(python=python), manifest.package)
        before = setup.tree(installation.root)
        _commands(story, manifest, installation, options)
        identical = setup.tree(installation.root) == before
        story.steps.append(Step("compare", identical, "every byte as installed" if identical else "bytes differ"))
    return story


def _commands(story: Story, manifest: Manifest, installation: Installation, options: DemoOptions) -> None:
    def check() -> _Ending:
        assessed = assess(manifest, installation)
        return _Ending(assessed.exit, str(assessed.fault) if assessed.fault else _state(assessed.situation))

    def patch() -> _Ending:
        return _Ending(Exit.OK, _state(apply(manifest, installation, ApplyOptions()).after))

    def take_back() -> _Ending:
        return _Ending(Exit.OK, _state(rollback(manifest, installation, RollbackOptions()).after))

    def prove(chosen: smoke.SmokeOptions) -> Callable[[], _Ending]:
        return lambda: _prove(story, installation, chosen)

    story.step("check", Exit.PENDING, check)
    if options.torch:
        with setup.progress("the same checks on the unpatched release"):
            levels = ("kernels", *(vllm.LEVELS if options.full else ()))
            chosen = smoke.SmokeOptions(
                levels, "emulated", ("lazy",), quiet=options.quiet, arguments=vllm.STOCK_ARGUMENTS
            )
            story.stock = smoke.run(installation, chosen)
    story.step("apply", Exit.OK, patch)
    if story.failed:
        return  # nothing is patched: there is nothing to prove, nor to roll back
    story.step("check", Exit.OK, check)
    story.step("apply again", Exit.OK, patch)
    if options.torch:
        every = smoke.SmokeOptions(device="emulated", require=smoke.AFTER_APPLY, quiet=options.quiet)
        story.step("smoke", Exit.OK, prove(every))
    if options.full:
        wanted = vllm.LEVELS
        with_vllm = smoke.SmokeOptions(wanted, "emulated", ("lazy",), require=wanted, quiet=options.quiet)
        story.step("smoke with vLLM", Exit.OK, prove(with_vllm))
    story.step("rollback", Exit.OK, take_back)
    story.step("check", Exit.PENDING, check)


def _state(found: Situation) -> str:
    return found.state.value if found.state else "nothing to patch"


def _prove(story: Story, installation: Installation, chosen: smoke.SmokeOptions) -> _Ending:
    levels = smoke.run(installation, chosen)
    story.patched += levels
    fault = smoke.fault_of(levels, chosen)
    passed = sum(level.status == "passed" for level in levels)
    ending = _Ending(Exit.OK, f"{passed} of {len(levels)} levels passed")
    return ending if fault is None else _Ending(fault.exit, str(fault))


def _lazy_counters(levels: list[LevelResult]) -> dict[str, Any]:
    return next((level.counters for level in levels if level.level == "kernels" and level.rules == "lazy"), {})
