"""A case of level inference: an engine, the answers it must give, the hits it must have."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gaudi_patch.smoke.probes import _probe
    from gaudi_patch.smoke.probes._probe import Foreign
    from gaudi_patch.smoke.probes._vllm import engine as vllm_engine
    from gaudi_patch.smoke.probes._vllm import prompts as vllm_prompts
    from gaudi_patch.smoke.probes._vllm import setup as vllm_setup
else:  # run by path, beside this file
    import _probe

    from _vllm import engine as vllm_engine
    from _vllm import prompts as vllm_prompts
    from _vllm import setup as vllm_setup

LENGTH_IN_CHUNKS = 4.6875  # 300 tokens of chunks of 64: four whole chunks and a tail


def arguments() -> argparse.Namespace:
    """Return the level's arguments for its cases, in addition to those of every probe."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--case", required=True)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--server", type=int, default=0)
    parser.add_argument("--storage", default="")
    parser.add_argument("--phase", choices=("store", "load", "refused", "served", "control"), default="store")
    return parser.parse_known_args()[0]


class VllmCase:
    """An engine and its expected answers."""

    def __init__(self, probe: _probe.Probe, settings: dict[str, object], **options: Foreign) -> None:
        self.probe, self.arguments = probe, arguments()
        mla = bool(options.pop("mla", False))
        vllm_setup.prepare_environment(probe.scratch, settings, own_platform=False)
        self.errors = vllm_engine.Errors()
        _probe.load("habana_frameworks.torch")
        if probe.device == "hpu" and options.get("ranks", 1) > _probe.load("torch").hpu.device_count():
            raise _probe.Skip("there is one HPU only")
        given: Path | None = self.arguments.model
        dtype = "bfloat16" if vllm_setup.uses_vllm_gaudi() else "float32"
        self.folder = given or vllm_setup.tiny_checkpoint(probe.scratch, mla=mla)
        self.reference = vllm_prompts.Reference(self.folder, dtype, available=given is None and dtype == "float32")
        try:
            self.engine = vllm_engine.Engine(self.folder, dtype=dtype, **options)
        except Exception as error:
            raise RuntimeError(f"the engine does not start: {_probe.describe(error)}{self.errors.first}") from error
        self.unsettled: list[tuple[str, list[int], vllm_engine.Answer]] = []
        self.vocabulary = vllm_prompts.vocabulary(self.folder)
        if problems := self.engine.problems():
            raise RuntimeError(problems[0] + self.errors.first)
        probe.counters["engine_start_seconds"] = round(self.engine.seconds_to_start, 1)
        probe.counters["requests"] = []

    @property
    def length(self) -> int:
        """Return the length of the usual prompt."""
        return int(LENGTH_IN_CHUNKS * vllm_setup.chunk_size())

    def prompt(self, seed: int, length: int | None = None) -> list[int]:
        """Return a prompt of the usual or another length."""
        return vllm_prompts.prompt(seed, length or self.length, self.vocabulary)

    def ask(
        self,
        name: str,
        prompts: list[list[int]],
        *,
        external: list[int] | None = None,
        local: list[int] | None = None,
        wrong: bool = False,
        exact: bool = True,
    ) -> list[vllm_engine.Answer]:
        """Generate; compare the answers with the reference, and the hits with the expected ones, if given.

        wrong: a fault was put in, and the answers must differ from the right ones. exact: compare the answers at all.
        """
        with self.probe.section(name):
            began = time.monotonic()
            answers = self.engine.generate(prompts, vllm_prompts.ANSWER)
            seconds = round((time.monotonic() - began) / len(prompts), 3)
            for number, (tokens, answer) in enumerate(zip(prompts, answers, strict=True)):
                self.probe.counters["requests"].append(
                    {"request": name, "prompt": answer.prompt, "vllm": answer.local, "lmcache": answer.external}
                    | {"seconds": seconds, "answer": answer.tokens}
                )
                self._compare_hits(answer, number, external, local)
                if not exact:
                    continue
                if not wrong and not self.reference.available:
                    if not answer.external:
                        self.reference.note(tokens, answer.tokens)
                    else:
                        self.unsettled.append((name, tokens, answer))
                        continue
                right = self.reference.answer(tokens)
                if wrong:
                    self.probe.check(
                        answer.tokens != right, "the injected fault did not change the answer: the check is blind"
                    )
                else:
                    self._compare_answer(answer, right)
            return answers
        raise _probe.Skip("a request failed, and with it the engine")

    def settle(self) -> None:
        """Compare the answers not compared yet with the engine's own answers without LMCache.

        vLLM's prefix cache gets as many tokens as LMCache had, so that the same kernels run on the same shapes.
        """
        unsettled, self.unsettled = self.unsettled, []
        for name, tokens, answer in unsettled:
            with self.probe.section(name), self.engine.without_lookups():
                self.engine.forget_prefixes()
                self.engine.generate([tokens[: answer.local + answer.external]], 1)
                (right,) = self.engine.generate([tokens], vllm_prompts.ANSWER)
                self.probe.check(right.external == 0, "the comparison itself was served by LMCache")
                self.reference.note(tokens, right.tokens)
                self._compare_answer(answer, right.tokens)
        self.engine.forget_prefixes()

    def _compare_answer(self, answer: vllm_engine.Answer, right: list[int] | None) -> None:
        self.probe.check(
            answer.tokens == right,
            f"answered {answer.tokens}, must be {right}; {answer.external} of {answer.prompt} tokens came "
            f"from LMCache{self.errors.first}",
        )

    def _compare_hits(
        self, answer: vllm_engine.Answer, number: int, external: list[int] | None, local: list[int] | None
    ) -> None:
        if local is not None:
            self.probe.check(answer.local == local[number], f"vLLM had {answer.local} tokens, not {local[number]}")
        if external is not None:
            self.probe.check(
                answer.external == external[number],
                f"LMCache had {answer.external} of {answer.prompt} tokens, not {external[number]}{self.errors.first}",
            )

    def hit(self, stored: int, length: int, shared: int, local: int = 0) -> int:
        """Return the number of tokens that LMCache must add."""
        return vllm_prompts.expected_hit(self.engine, stored, length, shared, local)

    def close(self) -> None:
        """Close the engine; fail if anything of it stays."""
        self.settle()
        with self.probe.section("shutdown"):
            self.engine.close()
            left = vllm_engine.threads_left()
            self.probe.check(not left, f"threads are left: {', '.join(left)}")
