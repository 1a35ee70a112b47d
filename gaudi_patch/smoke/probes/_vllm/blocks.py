"""Compare the content of the paged KV caches bit for bit at every step of the engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gaudi_patch.smoke.probes import _probe
    from gaudi_patch.smoke.probes._probe import Foreign
else:  # run by path, beside this file
    import _probe


class Watch:
    """Hooks in the runner. Its findings are in ``problems``; it also counts what it has compared.

    tokens: positions whose KV was compared, over all steps. resumed: requests that resumed after preemption.
    """

    def __init__(self, runner: Foreign) -> None:
        self._runner = runner
        self._torch: Foreign = _probe.load("torch")
        self._before: list[Foreign] = []
        self.problems: list[str] = []
        self.tokens = 0
        self.blocks: list[int] = []
        self._canary: set[int] = set()
        runner.before_load.append(self._note)
        runner.after_load.append(self._compare)

    @property
    def resumed(self) -> int:
        """Return the number of requests resumed after preemption."""
        return int(self._runner.preempted)

    def take(self) -> list[str]:
        """Return the problems since the last call."""
        found, self.problems = self.problems, []
        return found

    def invert(self, tokens: int) -> None:
        """Invert the KV of the last request's first ``tokens`` positions, which must not be written again."""
        size = self._runner.block_size
        slots = [block * size + offset for block in self.blocks[: tokens // size] for offset in range(size)]
        self._canary = set(slots)
        index = self._torch.tensor(slots).to("hpu")
        for cache in self._tensors():
            rows = cache.index_select(0, index).cpu().contiguous()
            rows.view(self._torch.uint8).bitwise_xor_(0xFF)
            cache.index_copy_(0, index, rows.to("hpu"))
        self._torch.hpu.synchronize()

    def restore(self, tokens: int) -> None:
        """Undo :meth:`invert`."""
        self.invert(tokens)
        self._canary = set()

    def _tensors(self) -> list[Foreign]:
        return [tensor for cache in self._runner.kv_caches.values() for tensor in cache if tensor is not None]

    def _bytes(self) -> list[Foreign]:
        content = [tensor.cpu() for tensor in self._tensors()]
        return [tensor.view(self._torch.uint8).reshape(tensor.shape[0], -1) for tensor in content]

    def _note(self, runner: Foreign, scheduler_output: Foreign) -> None:
        self._before = self._bytes()

    def _compare(self, runner: Foreign, scheduler_output: Foreign) -> None:
        allowed = set(range(runner.num_blocks * runner.block_size, (runner.num_blocks + 1) * runner.block_size))
        for name in scheduler_output.num_scheduled_tokens:
            state = runner.requests[name]
            self.blocks = list(state.blocks)
            slots = runner.slots(state, 0, state.computed)
            # For a completely cached prompt, the last token is loaded and still computed.
            stop = state.computed + scheduler_output.num_scheduled_tokens[name]
            allowed.update(runner.slots(state, 0, stop).tolist())
            self._check_request(runner, name, state, slots)
        for before, after in zip(self._before, self._bytes(), strict=True):
            changed = (before != after).any(dim=1).nonzero().flatten().tolist()
            if strange := [slot for slot in changed if slot not in allowed]:
                self._say(f"{len(strange)} slots of no request in this step were written, the first is {strange[0]}")
            if shared := [slot for slot in changed if slot in self._canary]:
                self._say(
                    f"{len(shared)} slots of blocks that vLLM already had, and may share with other requests, "
                    f"were written again, the first is {shared[0]}"
                )

    def _check_request(self, runner: Foreign, name: str, state: Foreign, slots: Foreign) -> None:
        pages = [runner.kv_caches[layer] for layer in runner.layer_names()]
        wrong = runner.model.differing(state.tokens, state.computed, slots, pages)
        own = slots.tolist()
        wrong = [entry for entry in wrong if own[entry[2]] not in self._canary]
        self.tokens += state.computed
        if wrong:
            layer, part, position = wrong[0]
            positions = sorted({entry[2] for entry in wrong})
            self._say(
                f"request {name}: the KV of {len(positions)} of its {state.computed} positions is not what was stored: "
                f"the first is position {position} (slot {own[position]}), layer {layer}, {'KV'[part]}"
            )

    def _say(self, problem: str) -> None:
        if len(self.problems) < 5 and problem not in self.problems:
            self.problems.append(problem)
