"""An attested installation, and an attestation with every field filled."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gaudi_patch.attestation.document import digest
from gaudi_patch.commands.apply import applied
from gaudi_patch.engine.apply import ApplyOptions
from gaudi_patch.output.report import Result
from gaudi_patch.smoke import runner
from gaudi_patch.smoke.checks import SmokeOptions
from gaudi_patch.smoke.counted import Counters
from gaudi_patch.smoke.outcome import LevelResult
from tests.support import tiny
from tests.support.tiny import Tiny

LEVELS = [
    LevelResult("imports", "passed", "760 comparisons", 1.23456, "emulated", "lazy", 760),
    LevelResult(
        "kernels", "passed", "2 cases", 2.0, "emulated", "lazy", 2,
        counters=Counters.read(
            {"store of 17 objects": {"graph_launches": 3, "note": "text"}, "cases": 2, "other": [1]}
        ),
    ),
    LevelResult("engine", "skipped", "no numpy", 0.0, "none", "eager"),
]  # fmt: skip


@pytest.fixture
def target(tmp_path: Path) -> Tiny:
    """Return a pristine tiny LMCache."""
    return tiny.make(tmp_path / "t")


@pytest.fixture
def report(tmp_path: Path) -> Path:
    return tmp_path / "attestation.json"


@pytest.fixture
def smoked(monkeypatch: pytest.MonkeyPatch) -> SmokeOptions:
    """Return options for smoke checks whose levels are LEVELS and take no time."""
    monkeypatch.setattr(runner, "run", lambda *_, **__: LEVELS)
    return SmokeOptions(quiet=True)


def apply(target: Tiny, report: Path, smoke: SmokeOptions | None = None, **more: Any) -> Result:
    return applied(target.manifest, target.installation, ApplyOptions(**more), smoke, report=report)


def written(report: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(report.read_bytes())
    return document


@pytest.fixture
def attested(target: Tiny, report: Path, smoked: SmokeOptions) -> Tiny:
    """Return a patched tiny LMCache with a full attestation in ``report``."""
    apply(target, report, smoked)
    return target


@pytest.fixture
def rewrite(report: Path) -> Callable[[Callable[[dict[str, Any]], object]], None]:
    """Change the attestation and recompute its sha256."""

    def change(edit: Callable[[dict[str, Any]], object]) -> None:
        document = written(report)
        edit(document)
        report.write_text(json.dumps({**document, "sha256": digest(document)}))

    return change
