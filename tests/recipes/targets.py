"""Recipes and their start-up files, for the tests of targets."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

import yaml

from gaudi_patch.recipes.compose import MODES, Settings
from gaudi_patch.recipes.targets.write import start
from tests.recipes.test_compose import recipe, release

IMAGE = "registry.example:5000/vllm-gaudi-lmcache:1"
FOLDER = PurePosixPath("/opt/lm cache/100%")
WEIGHTS = 16_060_522_496
SERVED = "lm://lmcache-server:65432"
CASES = [(mode, ranks) for mode in MODES for ranks in (1, 8)]


def started(mode: str, target: str, folder: PurePosixPath = FOLDER, **settings: Any) -> Any:
    """Return the recipe of ``mode``, started by ``target``."""
    if target == "kubernetes" and mode in ("remote", "disaggregated"):
        settings = {"storage": SERVED, **settings}
    image = IMAGE if target in ("compose", "kubernetes") else ""
    return start(
        target, image, mode, release(), Settings(**settings), recipe(mode, **settings), weights=WEIGHTS, folder=folder
    )


def manifests(mode: str, **settings: Any) -> list[dict[str, Any]]:
    """Return the documents of kubernetes.yaml."""
    return list(yaml.safe_load_all(started(mode, "kubernetes", **settings).files["kubernetes.yaml"]))


def of_kind(documents: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    """Return the documents of one kind."""
    return [document for document in documents if document["kind"] == kind]
