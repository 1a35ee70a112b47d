"""One case of level inference, in a process of its own: ``--case NAME`` beside a probe's arguments."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gaudi_patch.smoke.probes import _probe, _vllm_controls, _vllm_engine, _vllm_prompts
    from gaudi_patch.smoke.probes._probe import Foreign
else:  # run by path, with its neighbours beside it
    sys.path.append(str(Path(__file__).resolve().parent))
    import _probe
    import _vllm_controls
    import _vllm_engine
    import _vllm_prompts

LENGTH_IN_CHUNKS = 4.6875  # 300 tokens of chunks of 64: four whole chunks and a tail


def arguments() -> argparse.Namespace:
    """What the level tells its cases, beside what every probe is told."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--case", required=True)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--storage", default="")
    parser.add_argument("--phase", choices=("store", "load"), default="store")
    return parser.parse_known_args()[0]


class Case:
    """An engine and what it must answer."""

    def __init__(self, probe: _probe.Probe, settings: dict[str, object], **options: Foreign) -> None:
        self.probe, self.arguments = probe, arguments()
        mla = bool(options.pop("mla", False))
        _vllm_engine.prepare_environment(probe.scratch, settings, own_platform=False)
        self.errors = _vllm_engine.Errors()
        _probe.load("habana_frameworks.torch")
        given: Path | None = self.arguments.model
        dtype = "bfloat16" if _vllm_engine.uses_vllm_gaudi() else "float32"
        self.folder = given or _vllm_engine.tiny_checkpoint(probe.scratch, mla=mla)
        # bfloat16 has ties that another order of summation decides otherwise: there, the engine's own answer counts.
        self.reference = _vllm_prompts.Reference(self.folder, dtype, available=given is None and dtype == "float32")
        try:
            self.engine = _vllm_engine.Engine(self.folder, dtype=dtype, **options)
        except Exception as error:
            raise RuntimeError(f"the engine does not start: {_probe.describe(error)}{self.errors.first}") from error
        self.vocabulary = _vllm_prompts.vocabulary(self.folder)
        if problems := self.engine.problems():
            raise RuntimeError(problems[0] + self.errors.first)
        probe.counters["engine_start_seconds"] = round(self.engine.seconds_to_start, 1)
        probe.counters["requests"] = []

    @property
    def length(self) -> int:
        """The length of the usual prompt."""
        return int(LENGTH_IN_CHUNKS * _vllm_engine.chunk_size())

    def prompt(self, seed: int, length: int | None = None) -> list[int]:
        """A prompt of the usual or another length."""
        return _vllm_prompts.prompt(seed, length or self.length, self.vocabulary)

    def ask(
        self,
        name: str,
        prompts: list[list[int]],
        *,
        external: list[int] | None = None,
        local: list[int] | None = None,
        wrong: bool = False,
    ) -> list[_vllm_engine.Answer]:
        """Generate, and compare the answers with the reference and the hits with what is expected, if given.

        wrong: a fault was put in, and the answers must differ from the right ones.
        """
        with self.probe.section(name):
            began = time.monotonic()
            answers = self.engine.generate(prompts, _vllm_prompts.ANSWER)
            seconds = round((time.monotonic() - began) / len(prompts), 3)
            for number, (tokens, answer) in enumerate(zip(prompts, answers, strict=True)):
                self.probe.counters["requests"].append(
                    {"request": name, "prompt": answer.prompt, "vllm": answer.local, "lmcache": answer.external}
                    | {"seconds": seconds}
                )
                self._compare_hits(answer, number, external, local)
                if not wrong and not answer.external:
                    self.reference.note(tokens, answer.tokens)
                right = self.reference.answer(tokens)
                if wrong:
                    self.probe.check(
                        answer.tokens != right, "the fault put in on purpose did not change the answer: check is blind"
                    )
                else:
                    self.probe.check(
                        answer.tokens == right,
                        f"answered {answer.tokens}, must be {right}; {answer.external} of {answer.prompt} tokens came "
                        f"from LMCache{self.errors.first}",
                    )
            return answers
        return []

    def _compare_hits(
        self, answer: _vllm_engine.Answer, number: int, external: list[int] | None, local: list[int] | None
    ) -> None:
        if local is not None:
            self.probe.check(answer.local == local[number], f"vLLM had {answer.local} tokens, not {local[number]}")
        if external is not None:
            self.probe.check(
                answer.external == external[number],
                f"LMCache had {answer.external} of {answer.prompt} tokens, not {external[number]}{self.errors.first}",
            )

    def hit(self, stored: int, length: int, shared: int, local: int = 0) -> int:
        """The number of tokens that LMCache must add."""
        return _vllm_prompts.expected_hit(self.engine, stored, length, shared, local)

    def close(self) -> None:
        """Close the engine; nothing of it may stay."""
        with self.probe.section("shutdown"):
            self.engine.close()
            left = _vllm_engine.threads_left()
            self.probe.check(not left, f"threads are left: {', '.join(left)}")


def answers(probe: _probe.Probe, *, mla: bool = False) -> None:
    """Miss, hit, partial hit, tail, several at once; then the negative controls."""
    case = Case(probe, {}, mla=mla)
    block, chunk, n = _vllm_engine.block_size(), _vllm_engine.chunk_size(), case.length
    p, q = case.prompt(1), case.prompt(2)
    case.ask("miss", [p], external=[0])
    keys_p = set(case.engine.hot_cache())
    case.engine.forget_prefixes()
    case.ask("hit", [p], external=[case.hit(n, n, n)], local=[0])
    case.engine.forget_prefixes()
    longer = p[: 3 * chunk] + case.prompt(3, chunk)
    case.ask("partial hit", [longer], external=[case.hit(n, len(longer), 3 * chunk)], local=[0])
    case.engine.forget_prefixes()
    short = p[: 2 * chunk + 2 * block // 2]
    case.ask("prefix of a stored prompt", [short], external=[case.hit(n, len(short), 2 * chunk)], local=[0])
    had = len(short) // block * block
    case.ask("hit beyond a prefix that vLLM has", [p], external=[case.hit(n, n, n, had)], local=[had])
    case.engine.forget_prefixes()
    whole = case.prompt(4, 2 * chunk)
    case.ask("miss of whole chunks", [whole], external=[0])
    case.engine.forget_prefixes()
    case.ask("hit of whole chunks", [whole], external=[2 * chunk - 1], local=[0])
    case.ask("miss of another", [q], external=[0])
    case.engine.forget_prefixes()
    case.ask("two at once", [p, q], external=[case.hit(n, n, n)] * 2, local=[0, 0])
    _controls(case, p, q, keys_p)
    hit = case.hit(n, n, n)
    case.close()
    probe.summary.append(f"{'MLA' if mla else 'MHA'}: answers identical with {hit} of {n} tokens cached")


def _controls(case: Case, p: list[int], q: list[int], keys_p: set[Foreign]) -> None:
    chunks = case.length // _vllm_engine.chunk_size()
    hits = [case.hit(case.length, case.length, case.length)]
    cached = case.engine.hot_cache()
    of_p = [cached[key] for key in cached if key in keys_p][:chunks]
    everything = list(cached.values())
    for name, change, objects in (
        ("zeroed KV", _vllm_controls.zero, everything),
        ("negated KV", _vllm_controls.negate, everything),
    ):
        case.engine.forget_prefixes()
        with _vllm_controls.changed(objects, change):
            case.ask(f"control: {name}", [p], external=hits, wrong=True)
    of_q = _objects_of(case, q, exclude=of_p)[: len(of_p)]
    case.engine.forget_prefixes()
    with _vllm_controls.changed([*of_p[: len(of_q)], *of_q], _vllm_controls.exchange):
        case.ask("control: another request's KV", [p], external=hits, wrong=True)
    case.engine.forget_prefixes()
    case.ask("after the controls", [p, q], external=hits * 2)
    if case.probe.device == "emulated":  # on hardware the store may win the race
        _store_without_waiting(case)
    else:
        case.probe.summary.append("store without synchronize not tried (on hardware it may win the race)")


def _objects_of(case: Case, tokens: list[int], exclude: list[Foreign]) -> list[Foreign]:
    """The cached objects of a prompt, found by storing nothing else since: the last ones in the cache."""
    chunks = len(tokens) // _vllm_engine.chunk_size()
    cached = [entry for entry in case.engine.hot_cache().values() if all(entry is not other for other in exclude)]
    shape = exclude[0].tensor.shape
    return [entry for entry in cached if entry.tensor.shape == shape][-chunks:]


def _store_without_waiting(case: Case) -> None:
    control = _vllm_controls.UnsynchronisedStores(case.engine)
    tokens = case.prompt(5)
    n = len(tokens)
    with control.active():
        case.ask("control: store without synchronize, miss", [tokens], external=[0])
    with case.probe.section("control: store without synchronize"):
        case.probe.check(control.put_back() > 0, "LMCache's connector stored nothing")
    case.engine.forget_prefixes()
    case.ask("control: store without synchronize", [tokens], external=[case.hit(n, n, n)], wrong=True)


def latent_attention(probe: _probe.Probe) -> None:
    """The same with MLA."""
    answers(probe, mla=True)


def disk(probe: _probe.Probe) -> None:
    """The local disk backend, with nothing kept in memory."""
    folder = probe.scratch / "disk"
    case = Case(probe, {"local_cpu": False, "local_disk": f"file://{folder}/", "max_local_disk_size": 0.25})
    n, p = case.length, case.prompt(1)
    case.ask("miss", [p], external=[0])
    _wait_for_files(probe, folder, n // _vllm_engine.chunk_size())
    case.engine.forget_prefixes()
    case.ask("hit from disk", [p], external=[case.hit(n, n, n)], local=[0])
    case.close()
    probe.summary.append("local disk: answers identical")


def _wait_for_files(probe: _probe.Probe, folder: Path, count: int) -> None:
    """The backends write in the background."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and sum(path.is_file() for path in folder.rglob("*")) < count:
        time.sleep(0.05)
    time.sleep(0.2)
    probe.check(sum(path.is_file() for path in folder.rglob("*")) >= count, f"fewer than {count} chunks were written")


def outlives(probe: _probe.Probe) -> None:
    """A store that is there before and after the engine: one process stores, another one loads."""
    given = arguments()
    case = Case(probe, {"local_cpu": False, "remote_url": given.storage, "remote_serde": "naive"})
    n, p = case.length, case.prompt(1)
    if given.phase == "store":
        case.ask("miss", [p], external=[0])
        _wait_for_remote(case, n // _vllm_engine.chunk_size())
    else:
        case.ask("hit in a new process", [p], external=[case.hit(n, n, n)], local=[0])
        probe.summary.append(f"{given.storage.partition(':')[0]}: a new process was served from storage")
    case.close()


def _wait_for_remote(case: Case, count: int) -> None:
    backend = case.engine.adapter.lmcache_engine.storage_manager.storage_backends["RemoteBackend"]
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and backend.put_tasks:
        time.sleep(0.05)
    case.probe.check(
        not backend.put_tasks, f"{len(backend.put_tasks)} of {count} chunks are not in the store after 30 s"
    )


def multiprocess(probe: _probe.Probe) -> None:
    """LMCache's multiprocess mode: the server, in its own process, is running already."""
    given = arguments()
    extra: dict[str, object] = {"lmcache.mp.host": "tcp://127.0.0.1", "lmcache.mp.port": given.port}
    case = Case(probe, {}, connector="LMCacheMPConnector", extra=extra)
    chunk = _vllm_engine.chunk_size()
    p = case.prompt(1)
    hit = case.length // chunk * chunk
    case.ask("miss", [p], external=[0])
    case.engine.forget_prefixes()
    case.ask("hit", [p], external=[hit], local=[0])
    case.engine.forget_prefixes()
    longer = p[: 3 * chunk] + case.prompt(3, chunk)
    case.ask("partial hit", [longer], external=[3 * chunk], local=[0])
    case.close()
    probe.summary.append(f"multiprocess mode: answers identical with {hit} of {case.length} tokens cached")


def two_ranks(probe: _probe.Probe, *, mla: bool = False) -> None:
    """Two workers, each with its own device, hccl between them (gloo on the emulated HPU)."""
    case = Case(probe, {}, ranks=2, mla=mla)
    chunk = _vllm_engine.chunk_size()
    p = case.prompt(1)
    case.ask("miss", [p], external=[0])
    case.engine.forget_prefixes()
    case.ask("hit", [p], external=[case.length // chunk * chunk], local=[0])
    case.close()
    probe.summary.append(f"two ranks, {'MLA' if mla else 'MHA'}: answers identical")


def two_ranks_latent_attention(probe: _probe.Probe) -> None:
    """The same with MLA, where one rank stores for all."""
    two_ranks(probe, mla=True)


CASES = {
    "answers": answers,
    "latent-attention": latent_attention,
    "disk": disk,
    "outlives": outlives,
    "multiprocess": multiprocess,
    "two-ranks": two_ranks,
    "two-ranks-latent-attention": two_ranks_latent_attention,
}


def body(probe: _probe.Probe) -> None:
    """Run the case."""
    given = arguments()
    print(json.dumps({"case": given.case, "pid": os.getpid()}), flush=True)
    CASES[given.case](probe)


if __name__ == "__main__":
    _vllm_engine.run("inference", body)
