"""Compare the patched and the unpatched code of one installation on the device at hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from gaudi_patch.bench import points, workload
from gaudi_patch.bench.hosts import HOSTS, Host
from gaudi_patch.bench.runs import Measured, Request, available_bytes, run
from gaudi_patch.bench.trees import STOCK
from gaudi_patch.bench.workload import Shape
from gaudi_patch.engine.situation import look
from gaudi_patch.errors import Exit, GaudiPatchError
from gaudi_patch.series.manifest import Manifest
from gaudi_patch.smoke.checks import interpreter_of
from gaudi_patch.target.installation import Installation
from gaudi_patch.target.invocation import command_line


@dataclass(frozen=True)
class BenchOptions:
    """What to measure. ``contexts`` in tokens; ``memory`` in bytes, 0 for half of the free memory; ``timeout`` in s.

    host: its bandwidths give the exposed times. through: what the KV is moved through, of ``workload.THROUGH``.
    """

    shapes: Sequence[Shape] = workload.SHAPES
    contexts: Sequence[int] = ()
    device: str = "auto"
    rules: str = "lazy"
    memory: int = 0
    timeout: float = 1800.0
    host: Host = HOSTS["gaudi3"]
    through: str = "connector"


@dataclass(frozen=True)
class Comparison:
    """The measurements of one LMCache installation.

    ``limit``: usable memory in bytes. ``smoke``: the command line that gives details of a failure.
    """

    version: str
    rules: str
    shapes: Sequence[Shape]
    limit: int
    measured: Measured
    smoke: str = "gaudi-patch smoke"
    host: Host = HOSTS["gaudi3"]
    through: str = "connector"

    @cached_property
    def pairs(self) -> list[points.Pair]:
        """Return the figures of both codes, paired by request."""
        return points.pairs_of(self.measured.points)

    @property
    def fault(self) -> GaudiPatchError | None:
        """Return why the comparison is invalid: the patched code failed, or nothing was measured.

        A failure of the unpatched code is a finding, not a fault.
        """
        failures = self.measured.failures
        broken = [f"{shape}: {why}" for code, shape, why in failures if code != STOCK]
        if broken:
            return GaudiPatchError(
                Exit.SMOKE, "bench-failed", "the patched code failed", f"`{self.smoke}` says more", details=broken
            )
        if self.measured.points:
            return None
        skipped = self.measured.skipped
        details = [f"{points.WORDS[code]} code, {shape}: {why}" for code, shape, why in failures]
        details += [f"{case.shape} {workload.length_text(case.tokens)}: {case.reason}" for case in skipped]
        return GaudiPatchError(
            Exit.ENVIRONMENT,
            "cannot-measure",
            "nothing was measured",
            "use shorter --contexts, other --shapes, or more --memory",
            details=details,
        )


def compare(
    manifest: Manifest, installation: Installation, options: BenchOptions, say: Callable[[str], None]
) -> Comparison:
    """Measure the codes; ``say`` shows a line of progress. Requests that exceed the memory are reported as skipped."""
    limit = options.memory or available_bytes() // 2
    request = Request(
        options.shapes, options.contexts, options.device, options.rules, limit, options.timeout, options.through
    )
    measured = run(look(manifest, installation), interpreter_of(installation), request, say)
    smoke = command_line("smoke", target=installation.target)
    return Comparison(
        installation.version or "",
        options.rules,
        options.shapes,
        limit,
        measured,
        smoke,
        options.host,
        options.through,
    )
