"""Data -> YAML, with multi-line texts in readable form."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import yaml


class _Dumper(yaml.SafeDumper):
    """A dumper that keeps the order of keys, and writes no anchors, and multi-line texts as blocks."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ANN401 - yaml's own signature
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.Node:
    style = "|" if "\n" in value else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _text)


def dump(documents: Iterable[Mapping[str, Any]]) -> str:
    """Return YAML documents, each with its keys in the order of the mapping."""
    text: str = yaml.dump_all(
        documents, Dumper=_Dumper, sort_keys=False, default_flow_style=False, allow_unicode=True, width=110
    )
    return text
