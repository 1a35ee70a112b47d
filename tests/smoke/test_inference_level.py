"""Level inference, without vLLM: which of its cases run, and in which order."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest


@pytest.mark.parametrize(
    ("passed", "not_checked", "phases"),
    [(True, {}, ["store", "load"]), (False, {}, ["store"]), (True, {"lm-server": "no keys"}, ["store"])],
)
def test_a_store_is_read_only_where_it_was_filled(
    load: Any, passed: bool, not_checked: dict[str, str], phases: list[str]
) -> None:
    seen: list[str] = []
    kind = load("inference").Level
    level = object.__new__(kind)
    level.probe = SimpleNamespace(not_checked=not_checked)
    level.run = lambda *extra, **options: seen.append(extra[extra.index("--phase") + 1]) or passed
    level._outlives("lm-server", "lm://127.0.0.1:1")
    assert seen == phases


@pytest.mark.parametrize("editable", [False, True])
@pytest.mark.parametrize(
    ("version", "text", "reason"),
    [
        ("0.13.0", "", "this vLLM has no LMCacheMPConnector"),
        ("0.21.0", "class LMCacheMPConnector: ...", "vLLM 0.21.0 has an LMCacheMPConnector of its own, made for older"),
        ("0.26.0", "from lmcache.integration.vllm.lmcache_mp_connector import LMCacheMPConnector", ""),
        ("0.40.0", None, ""),  # it may be elsewhere then; the case tells whether it starts
    ],
)
def test_multiprocess_mode_is_not_tried_where_vllm_cannot_start_it(
    load: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: str, text: str | None, reason: str,
    editable: bool,
) -> None:  # fmt: skip
    """In images vLLM is often an editable installation: its metadata is in another place than its code."""
    site, source = tmp_path / "site", tmp_path / ("source" if editable else "site")
    metadata = site / f"vllm-{version}.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n")
    connector = source.joinpath("vllm", "distributed", "kv_transfer", "kv_connector", "v1", "lmcache_mp_connector.py")
    connector.parent.mkdir(parents=True)
    (source / "vllm" / "__init__.py").write_text("raise RuntimeError('vLLM is not imported here')")
    if text is not None:
        connector.write_text(text)
    for folder in (site, source):
        monkeypatch.syspath_prepend(str(folder))
    inference = load("inference")
    monkeypatch.setattr(inference.kv_lmcache, "serves_multiprocess", lambda: True)
    monkeypatch.setattr(inference.kv_lmcache, "release", lambda: (0, 5, 6))
    told = inference._no_multiprocess()
    assert told.startswith(reason)
    assert bool(told) == bool(reason)
