"""layout.py: every layout becomes flat planes on its base; an error for an unsupported one names layer and reason."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from lmcache.gaudi.layout import LayoutError, normalise
from support import DEVICE, LAYOUTS, make_caches

BF16 = torch.bfloat16


def caches(layout: str, rows: list[tuple[int, ...]] | None = None) -> Any:
    rng = np.random.default_rng(0)
    return make_caches(layout, BF16, blocks=5, block_size=8, rows=rows or [(2, 4)] * 3, rng=rng)


def empty(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=BF16, device=DEVICE)


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_planes_are_the_flat_base_tensors(name: str) -> None:
    given = caches(name)
    layout = normalise(given.given)
    (section,) = layout.sections
    kv, blocked, trimmed, _ = LAYOUTS[name]
    flat = [given.flat[layer][side] for side in range(kv) for layer in range(3)]
    assert [plane.tensor.data_ptr() for plane in section.planes] == [side.data_ptr() for side in flat]
    assert [plane.tensor.shape for plane in section.planes] == [side.shape for side in flat]
    assert layout.through_views == 0
    assert all(not plane.tensor._is_view() for plane in section.planes)
    assert (section.kv, section.layers, section.width) == (kv, (0, 1, 2), 8)
    assert section.shape(7) == (kv, 3, 7, 8)
    if blocked and trimmed:
        assert (layout.slots, layout.pad) == (40, (40, 8))
    else:
        assert (layout.slots, layout.pad) == (48 if blocked else 40, None)
    assert layout.token_bytes == kv * 3 * 8 * 2


def test_layers_of_different_width_or_dtype_get_sections_of_their_own() -> None:
    given = caches("blocks", rows=[(2, 4), (4, 4), (2, 4), (1, 8)])
    layout = normalise(given.given)
    assert [(section.layers, section.width) for section in layout.sections] == [((0, 2, 3), 8), ((1,), 16)]
    rows = {plane.row_shape for plane in layout.sections[0].planes}
    assert rows == {(2, 4), (1, 8)}
    assert layout.token_bytes == 2 * (3 * 8 + 16) * 2


def test_a_cache_without_a_flat_base_is_served_through_a_view_and_counted() -> None:
    layout = normalise([(empty(5, 8, 2, 4), empty(5, 8, 2, 4))])
    assert layout.slots == 40
    assert layout.through_views == 2


def test_a_base_of_other_rows_is_not_taken_for_flat_caches() -> None:
    wide = empty(6, 64)
    layout = normalise([wide.view(6, 8, 8)[:5]])
    assert (layout.slots, layout.pad, layout.through_views) == (40, None, 1)
    assert layout.sections[0].planes[0].tensor.data_ptr() == wide.data_ptr()


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_caches_made_in_any_mode_are_served(mode: Any) -> None:
    with mode():
        key, value = empty(48, 2, 4), empty(48, 2, 4)
        layout = normalise([(key.view(6, 8, 2, 4), value.view(6, 8, 2, 4))])
    assert layout.slots == 48


def test_the_pointers_of_storages_are_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    given = caches("blocks")
    numbers = iter(range(1 << 20))
    monkeypatch.setattr(torch.UntypedStorage, "data_ptr", lambda storage: next(numbers))
    layout = normalise(given.given)
    assert (layout.through_views, layout.pad) == (0, (40, 8))


@pytest.mark.parametrize("wrapped", ["the same tuple", "a tuple of its own", "views of its own"])
@pytest.mark.parametrize("name", ["blocks", "flat pair", "latent blocks"])
def test_layers_that_use_the_caches_of_another_are_moved_once(name: str, wrapped: str) -> None:
    given = caches(name)
    other = given.given[1]
    if wrapped != "the same tuple" and isinstance(other, tuple):
        anew = wrapped == "views of its own"
        other = tuple(side.view(side.shape) if anew and side._is_view() else side for side in other)
    layout = normalise([*given.given, other, given.given[0]])
    (section,) = layout.sections
    assert (section.layers, layout.shared) == ((0, 1, 2), (3, 4))
    assert len({plane.tensor.data_ptr() for plane in section.planes}) == len(section.planes) == 3 * section.kv
    assert "2 layers more use the caches of these" in layout.describe()


def _packed() -> dict[str, Any]:
    both, layers, odd = empty(2, 40, 2, 4), empty(3, 40, 16), empty(48, 2, 4)
    whole, half = empty(40, 2, 4), empty(40, 2, 4)
    return {
        "K and V are halves of one allocation": [(both[0], both[1])],
        "K and V are the same tensor": [(whole, whole)],
        "layers are parts of one allocation": [layers[0], layers[1], layers[2]],
        "a layer shares K and not V": [(whole, half), (whole, empty(40, 2, 4))],
        "a layer sees another part of an allocation": [(odd[:40], half), (odd[8:], empty(40, 2, 4))],
        "a cache does not begin its allocation": [(odd[8:], half)],
    }


@pytest.mark.parametrize("name", sorted(_packed()))
@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_a_packed_layout_is_refused(name: str, mode: Any) -> None:
    with mode(), pytest.raises(LayoutError, match=r"layer \d: .* \(a packed layout\?\)"):
        normalise(_packed()[name])


REFUSED: dict[str, tuple[Any, str]] = {
    "nothing": ([], "no KV caches"),
    "K alone, as with dynamic quantisation": ([empty(5, 8, 2, 4)], r"layer 0: a single 4-D tensor .* K without V"),
    "scales": (
        [(empty(40, 2, 4), empty(40, 2, 4), empty(40, 2), None)],
        "layer 0: scale tensors come with K and V",
    ),
    "scales in a tuple": (
        [(empty(40, 2, 4), empty(40, 2, 4), None, (empty(40, 2),))],
        "layer 0: scale tensors",
    ),
    "K and V of one layer differ": ([(empty(40, 2, 4), empty(40, 2, 2))], "layer 0: K and V differ in width"),
    "K blocked and V flat": ([(empty(5, 8, 2, 4), empty(40, 2, 4))], "layer 0: K .* and V .* are neither"),
    "five dimensions": ([empty(2, 5, 8, 2, 4)], "layer 0: a 5-D tensor"),
    "a state-space layer": ([(empty(40, 2, 4), empty(40, 2, 4)), [[]]], "layer 1: list is not a KV cache"),
    "V is no tensor": ([(empty(40, 2, 4), 3)], "layer 0: V is a int"),
    "K 4-D without V": ([(empty(5, 8, 2, 4), None)], "layer 0: K .* without V"),
    "an empty cache": ([(empty(0, 2, 4), empty(0, 2, 4))], "layer 0: an empty cache"),
    "layers with different numbers of blocks": (
        [(empty(40, 2, 4), empty(40, 2, 4)), (empty(48, 2, 4), empty(48, 2, 4))],
        "different numbers of slots",
    ),
}


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_cannot_be_served_is_refused_with_layer_and_reason(name: str) -> None:
    given, message = REFUSED[name]
    with pytest.raises(LayoutError, match=message):
        normalise(given)


def test_a_permuted_cache_is_refused() -> None:
    heads_first = empty(5, 2, 8, 4).permute(0, 2, 1, 3)
    with pytest.raises(LayoutError, match=r"layer 0: .* not contiguous \(a permuted HND cache\?\)"):
        normalise([(heads_first, heads_first.clone())])


def test_caches_on_two_devices_are_refused() -> None:
    if DEVICE == "cpu":
        return
    host = torch.zeros(40, 2, 4, dtype=BF16)
    with pytest.raises(LayoutError, match="several devices: cpu, hpu"):
        normalise([(empty(40, 2, 4), empty(40, 2, 4)), (host, host.clone())])
