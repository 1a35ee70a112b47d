"""`demo`: the whole story in a throwaway environment, with a real LMCache from PyPI."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from gaudi_patch.demo import setup, vllm
from gaudi_patch.errors import Exit, GaudiPatchError
from gaudi_patch.output.report import Result, Table, Text, narrate
from gaudi_patch.series.manifest import Manifest, load
from gaudi_patch.target.locate import Installation, Target, locate

if TYPE_CHECKING:
    from gaudi_patch.smoke import checks as smoke
    from gaudi_patch.smoke.outcome import LevelResult


@dataclass
class _Story:
    """The steps so far: name, expected and actual exit code, seconds."""

    rows: list[tuple[str, str, str, str]] = field(default_factory=list)
    failed: bool = False

    def step(self, name: str, wanted: Exit, run: Callable[[], Result]) -> Result:
        started = time.perf_counter()
        try:
            result = run()
        except GaudiPatchError as error:
            result = Result(name, error.exit, errors=[error])
        seconds = time.perf_counter() - started
        good = result.exit is wanted
        self.failed |= not good
        what = "; ".join(str(error) for error in result.errors) or result.data.get("state") or ""
        self.rows.append((name, "ok" if good else "failed", f"exit {int(result.exit)}: {what}", f"{seconds:.3f} s"))
        narrate([f"  {name}: exit {int(result.exit)} in {seconds:.3f} s"])
        return result


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
class Options:
    """What `demo` was asked for.

    ``torch`` is the requirement of a PyTorch for the CPU, "" for no smoke checks; ``full`` adds vLLM.
    """

    version: str = ""
    keep: Path | None = None
    torch: str = "torch==2.13.0"
    quiet: bool = False
    full: bool = False


def demo(options: Options) -> Result:
    """Install LMCache into a new environment and run check, apply, smoke, rollback and check on it.

    Exit 0 when every step ended as it must and the tree is, to the byte, what the installer left. The
    unpatched release is put through the same checks first, for the record of what the patch changes;
    how it fares there decides nothing.
    """
    manifest = load()
    version = options.version or _newest(manifest)
    if options.full:
        setup.refuse_older(version)
    story = _Story()
    with setup.folder(options.keep) as folder:
        with setup.progress(f"making an environment in {folder}"):
            python = setup.environment(folder)
        setup.install_lmcache(python, f"{manifest.package}=={version}", options.torch, vllm=options.full)
        installation = locate(Target(python=python), manifest.package)
        before = setup.tree(installation.root)
        smoked = _verbs(story, manifest, installation, options)
        identical = setup.tree(installation.root) == before
        story.failed |= not identical
        story.rows.append(
            ("compare", "ok" if identical else "failed", "every byte as installed" if identical else "bytes differ", "")
        )
    return _report(story, version, folder if options.keep else None, smoked)


@dataclass
class _Smoked:
    """Results of the smoke checks on the stock and on the patched release."""

    stock: list[LevelResult] = field(default_factory=list)
    patched: list[LevelResult] = field(default_factory=list)


def _verbs(story: _Story, manifest: Manifest, installation: Installation, options: Options) -> _Smoked:
    from gaudi_patch.engine import apply, rollback
    from gaudi_patch.engine import verdicts as check
    from gaudi_patch.smoke import checks as smoke

    smoked = _Smoked()
    story.step("check", Exit.PENDING, lambda: check.check(manifest, installation))
    if options.torch:
        with setup.progress("the same checks on the unpatched release"):
            levels = ("kernels", *(vllm.LEVELS if options.full else ()))
            smoked.stock = smoke.run(
                installation,
                smoke.Options(levels, "emulated", ("lazy",), quiet=options.quiet, arguments=vllm.STOCK_ARGUMENTS),
            )
    story.step("apply", Exit.OK, lambda: apply.apply(manifest, installation, apply.Options()))
    if story.failed:
        return smoked  # nothing is patched: there is nothing to prove, nor to roll back
    story.step("check", Exit.OK, lambda: check.check(manifest, installation))
    story.step("apply again", Exit.OK, lambda: apply.apply(manifest, installation, apply.Options()))
    if options.torch:
        chosen = smoke.Options(device="emulated", require=smoke.AFTER_APPLY, quiet=options.quiet)
        story.step("smoke", Exit.OK, lambda: _prove(installation, chosen, smoked))
    if options.full:
        wanted = vllm.LEVELS
        with_vllm = smoke.Options(wanted, "emulated", ("lazy",), require=wanted, quiet=options.quiet)
        story.step("smoke with vLLM", Exit.OK, lambda: _prove(installation, with_vllm, smoked))
    story.step("rollback", Exit.OK, lambda: rollback.rollback(manifest, installation, rollback.Options()))
    story.step("check", Exit.PENDING, lambda: check.check(manifest, installation))
    return smoked


def _prove(installation: Installation, chosen: smoke.Options, smoked: _Smoked) -> Result:
    from gaudi_patch.smoke import checks as smoke

    results = smoke.run(installation, chosen)
    smoked.patched += results
    fault = smoke.fault_of(results, chosen)
    passed = sum(one.status == "passed" for one in results)
    data = {"state": f"{passed} of {len(results)} levels passed"}
    return Result("smoke", Exit.SMOKE if fault else Exit.OK, data, errors=[fault] if fault else [])


def _report(story: _Story, version: str, kept: Path | None, smoked: _Smoked) -> Result:
    from gaudi_patch.smoke import checks as smoke

    steps = [
        {"step": name, "status": status, "result": what, "seconds": took} for name, status, what, took in story.rows
    ]
    result = Result(
        "demo",
        data={
            "version": version,
            "steps": steps,
            "kept": str(kept) if kept else None,
            "smoke": {
                "stock": [asdict(one) for one in smoked.stock],
                "patched": [asdict(one) for one in smoked.patched],
            },
        },
    )
    if smoked.patched:
        result.blocks += smoke.blocks(smoked.patched)
    result.blocks += [
        Table(("counted on the emulated HPU", "stock", "patched"), rows, f"{request} (lazy rules, after warm-up)")
        for request, rows in _counters(smoked).items()
    ]
    result.blocks += vllm.blocks(smoked.stock, smoked.patched)
    for one in smoked.stock:
        result.blocks.append(Text(f"unpatched, level {one.level} {one.status}: {one.reason}\n"))
    result.blocks.append(Table(("step", "status", "result", "time"), story.rows, f"LMCache {version}", state_column=1))
    if story.failed:
        result.exit = Exit.REFUSED
        fault = GaudiPatchError(
            Exit.REFUSED, "demo-failed", "a step of the demo did not end as it must", "see the table"
        )
        result.errors.append(fault)
        return result
    done = f"demo succeeded: LMCache {version} was patched, verified, and rolled back to the byte"
    result.blocks.append(Text(done, "good"))
    result.blocks.append(Text(f"the environment is in {kept}" if kept else "nothing was left behind", verbatim=True))
    return result


def _counters(smoked: _Smoked) -> dict[str, list[tuple[str, str, str]]]:
    """The counters of each request that the patched release was counted on; "-" where stock did not get so far."""

    def lazy(results: list[LevelResult]) -> dict[str, dict[str, int]]:
        return next((one.counters for one in results if one.level == "kernels" and one.rules == "lazy"), {})

    stock, patched = lazy(smoked.stock), lazy(smoked.patched)
    return {
        request: [
            (name, str(stock.get(request, {}).get(key, "-")), str(counts[key]))
            for key, name in COUNTERS.items()
            if key in counts
        ]
        for request, counts in patched.items()
        if isinstance(counts, dict)
    }


def _newest(manifest: Manifest) -> str:
    from packaging.version import Version

    return max((series.versions.removeprefix("==") for series in manifest.series), key=Version)
