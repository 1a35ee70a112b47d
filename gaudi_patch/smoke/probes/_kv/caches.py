"""Paged KV caches on the device, in each layout that vllm-gaudi hands to a connector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gaudi_patch.smoke.probes import _probe
    from gaudi_patch.smoke.probes._kv.oracle import Bytes, Random
    from gaudi_patch.smoke.probes._probe import Foreign
else:  # run by path, beside this file
    import _probe

np: Any = _probe.load("numpy")

DTYPES = ("bfloat16", "float16", "float32", "float8_e4m3fn", "int8")


class TensorTuple(tuple):  # type: ignore[type-arg]
    """A layer's K and V as wrapped by vllm-gaudi: a tuple with those tensor attributes that LMCache reads.

    As in vllm_gaudi/v1/worker/hpu_model_runner.py (v0.19): shape ``(2, *tensor.shape)``, device, dtype, and
    none of a tensor's methods.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self), *self[0].shape)

    @property
    def device(self) -> Foreign:
        return self[0].device

    @property
    def dtype(self) -> Foreign:
        return self[0].dtype


@dataclass(frozen=True)
class Layout:
    """A layout in which the caches are handed over.

    mla: one latent cache per layer. flat: slots on dimension 0, not blocks. pad: the allocation has an extra padding
    block, outside the tensors handed over. extra: what follows K and V, or the latent cache, in the layer's tuple.
    view: the tensors are views of flat allocations, as vllm-gaudi makes them.
    """

    name: str
    mla: bool = False
    flat: bool = False
    pad: bool = False
    view: bool = True
    extra: tuple[None, ...] = ()
    tensor_tuple: bool = False


LAYOUTS = (
    Layout("blocks, padding block behind", pad=True, tensor_tuple=True),  # vllm-gaudi from 0.18.1
    Layout("blocks, no padding block", tensor_tuple=True),  # vllm-gaudi 0.14 to 0.17
    Layout("blocks, not a view", view=False),
    Layout("flat", flat=True),  # forward context, two tensors
    Layout("flat with empty scales", flat=True, extra=(None, None)),  # forward context, vllm-gaudi 0.13
    Layout("MLA blocks, padding block behind", mla=True, pad=True),
    Layout("MLA blocks", mla=True),
    Layout("MLA flat", mla=True, flat=True),
    Layout("MLA flat in a tuple", mla=True, flat=True, extra=(None, None, None)),
)
#: The layout of current vllm-gaudi, with and without MLA.
MAIN = LAYOUTS[0]
MLA = next(layout for layout in LAYOUTS if layout.mla)


class Caches:
    """The caches of all layers, filled with random bits, and a host copy of their expected content.

    heads: the number of heads per layer. entries: what vLLM would register, one per layer. truth: for each plane,
        uint8 ``[slots, bytes per row]``, the K planes of all layers first, without the padding block.
    copied: whether to make that copy, which is as large as the caches. shared: the number of additional layers that
        use the caches of the first ones.
    """

    def __init__(
        self,
        layout: Layout,
        *,
        dtype: str,
        blocks: int,
        block_size: int,
        heads: Sequence[int],
        head_size: int,
        rng: Random,
        copied: bool = True,
        shared: int = 0,
    ) -> None:
        self._torch = _probe.load("torch")
        self.layout = layout
        self.dtype = getattr(self._torch, dtype)
        self.blocks, self.block_size, self.slots = blocks, block_size, blocks * block_size
        self.heads, self.head_size = tuple(heads), head_size
        self._rng = rng
        self.kv = 1 if layout.mla else 2
        self._bases: list[Foreign] = []  # in the order of the planes
        self.truth: list[Bytes] = []
        made = [[self._make(count) for _ in range(self.kv)] for count in self.heads]
        self.entries = [self._entry([tensor for _, tensor in sides]) for sides in made]
        self.entries += self.entries[:shared]
        for side in range(self.kv):
            self._bases += [sides[side][0] for sides in made]
        if copied:
            self.truth = self.read()

    @property
    def widths(self) -> tuple[int, ...]:
        """Return the elements of one row, by layer."""
        return tuple(count * self.head_size for count in self.heads)

    def plane_numbers(self, layers: Sequence[int]) -> list[int]:
        """Return the planes of these layers in the order of a memory object: K planes, then V planes."""
        return [side * len(self.heads) + layer for side in range(self.kv) for layer in layers]

    def write_pending(self, slots: Sequence[int]) -> None:
        """Write new random rows into ``slots`` on the device, like a model's forward pass, without waiting."""
        slots = [slot for slot in slots if slot >= 0]
        widths = [plane.shape[1] for plane in self.truth]
        self.write(slots, [self._rng.integers(0, 256, (len(slots), width), dtype=np.uint8) for width in widths])

    def write(self, slots: Sequence[int], planes: Sequence[Bytes]) -> None:
        """Write rows, uint8 ``[slots, bytes per row]`` for each plane, into ``slots`` on the device, without
        waiting.
        """
        index = self._torch.tensor(list(slots), dtype=self._torch.int64).to("hpu")
        for number, (base, rows) in enumerate(zip(self._bases, planes)):  # noqa: B905 - one for each plane
            flat = base if self.layout.view or self.layout.flat else base.view(-1, *base.shape[2:])
            value = self._torch.from_numpy(rows).view(base.dtype).view(len(slots), *flat.shape[1:])
            flat.index_copy_(0, index, value.to("hpu"))
            self.truth[number][list(slots)] = rows

    def read(self) -> list[Bytes]:
        """Return the caches' current content, read like the model, in the order of the default stream."""
        return [self.read_plane(number) for number in range(len(self._bases))]

    def read_plane(self, number: int) -> Bytes:
        """Return the current content of one plane, as in ``read``."""
        return self._bytes(self._bases[number])[: self.slots]

    def _row_shape(self, heads: int) -> tuple[int, ...]:
        return (heads * self.head_size,) if self.layout.mla else (heads, self.head_size)

    def _make(self, heads: int) -> tuple[Foreign, Foreign]:
        """Return an allocation of random bits, and the tensor in it that is handed over."""
        row = self._row_shape(heads)
        rows = (self.blocks + (1 if self.layout.pad else 0)) * self.block_size
        shape = (rows, *row)
        if not self.layout.view and not self.layout.flat:
            shape = (self.blocks, self.block_size, *row)
        bits = self._rng.integers(0, 256, rows * heads * self.head_size * self.dtype.itemsize, dtype=np.uint8)
        base = self._torch.from_numpy(bits).view(self.dtype).view(shape).to("hpu")
        if self.layout.flat or not self.layout.view:
            return base, base
        blocked = base.view(-1, self.block_size, *row)
        return base, blocked[: self.blocks] if self.layout.pad else blocked

    def _entry(self, tensors: list[Foreign]) -> Foreign:
        if self.layout.extra:
            return (*tensors, *self.layout.extra)
        if self.layout.mla:
            return tensors[0]
        return TensorTuple(tensors) if self.layout.tensor_tuple else tuple(tensors)

    def _bytes(self, base: Foreign) -> Bytes:
        """Return a device tensor on the host, uint8 ``[rows, bytes per row]``; waits for pending work on it."""
        host = base.cpu()
        raw = host.reshape(-1).view(self._torch.uint8).numpy()
        rows = raw.size // (base[0].numel() * self.dtype.itemsize)
        if not self.layout.view and not self.layout.flat:
            rows *= self.block_size
        return raw.reshape(rows, -1).copy()
