"""Send one prompt to a server twice, and reset its own prefix cache in between."""

from __future__ import annotations

import random
import shlex
import time
from dataclasses import dataclass

from gaudi_patch.errors import Exit, GaudiPatchError, refused
from gaudi_patch.verify import counters
from gaudi_patch.verify.client import Completion, Server
from gaudi_patch.verify.counters import Counters

#: Common words, a token or a few each; each run has a new order.
_WORDS = (
    *("time", "year", "people", "way", "day", "man", "thing", "woman", "life", "child", "world", "school", "state"),
    *("family", "student", "group", "country", "problem", "hand", "part", "place", "case", "week", "company", "system"),
    *("question", "work", "number", "night", "point", "home", "water", "room", "mother", "area", "money", "story"),
    *("fact", "month", "lot", "right", "study", "book", "eye", "job", "word", "business", "issue", "side", "kind"),
)


@dataclass(frozen=True)
class Wanted:
    """The request: at least ``tokens`` of a prompt, ``answer`` tokens of an answer, and LMCache's ``chunk`` in tokens.

    ``settle`` is in seconds. ``model`` is "" for the first that the server lists.
    """

    model: str = ""
    tokens: int = 2048
    answer: int = 16
    chunk: int = 256
    settle: float = 1.0


@dataclass(frozen=True)
class RoundTrip:
    """The result: the first answer, computed, and the second one, with the tokens that LMCache gave for it.

    ``hits`` and ``first_hits`` are tokens, by vLLM's own count; ``own_hits`` came from vLLM's own prefix cache.
    ``expected`` counts the tokens in whole chunks of the prompt. ``busy``: other requests were, or may have been,
    counted too.
    """

    url: str
    model: str
    first: Completion
    second: Completion
    first_hits: int
    hits: int
    own_hits: int
    expected: int
    busy: bool

    @property
    def equal(self) -> bool:
        """Return whether both answers are the same text."""
        return self.first.text == self.second.text


def ask(server: Server, wanted: Wanted, seed: int) -> RoundTrip:
    """Run the round trip and return its result; raise an environment error if the server does not provide one.

    ``seed`` determines the prompt: with a seed used before, LMCache has the prompt already the first time.
    """
    server.healthy()
    model, longest = _model(server, wanted.model)
    if longest is not None and wanted.tokens + wanted.answer > longest:
        raise GaudiPatchError(
            Exit.USAGE,
            "usage",
            f"--tokens {wanted.tokens} and an answer of {wanted.answer}: {model} allows {longest} in total",
            f"`{_again(server, wanted, max(1, (longest - wanted.answer) // 2))}` is well below the limit",
        )
    prompt = _prompt(seed, wanted.tokens)
    start = _counted(server)
    first = server.complete(model, prompt, wanted.answer)
    time.sleep(wanted.settle)  # metrics and stores come after the answer
    between = _counted(server)
    server.reset()
    second = server.complete(model, prompt, wanted.answer)
    time.sleep(wanted.settle)
    end = _counted(server)
    # The last token of a prompt is always computed, because the answer starts from it.
    expected = (first.prompt_tokens - 1) // wanted.chunk * wanted.chunk
    if not expected:
        raise GaudiPatchError(
            Exit.USAGE,
            "usage",
            f"the prompt had {first.prompt_tokens} tokens, and LMCache keeps whole chunks of {wanted.chunk}",
            f"`{_again(server, wanted, 2 * wanted.chunk)}`",
        )
    busy = bool(start.busy or between.busy or end.busy)
    busy = busy or _more(between.prompts, end.prompts) != second.prompt_tokens
    first_hits, hits = _more(start.hits, between.hits), _more(between.hits, end.hits)
    own = _more(between.own_hits, end.own_hits) if end.own_hits is not None else 0
    return RoundTrip(server.url, model, first, second, first_hits, hits, own, expected, busy)


def fault(found: RoundTrip) -> GaudiPatchError | None:
    """Return the error if the server does not return cached KV as it must, else None."""
    if not found.equal:
        error = refused(
            "answers-differ",
            f"the same prompt got two different answers; the second one used {found.hits:,} tokens from LMCache",
            "stop the server, and compare bit by bit in its environment: `gaudi-patch smoke kernels engine --device "
            "hpu`, with --python unless it is the active one",
        )
        error.details = [f"computed: {found.first.text!r}", f"with LMCache: {found.second.text!r}"]
        return error
    if found.busy:
        return GaudiPatchError(
            Exit.ENVIRONMENT,
            "busy-server",
            "other requests ran on this server: the counts include theirs, and say nothing about the prompt that was "
            "sent",
            "verify a server that nobody else uses",
        )
    if found.own_hits >= found.expected:
        return GaudiPatchError(
            Exit.ENVIRONMENT,
            "not-reset",
            f"vLLM's own prefix cache was reset, but still served {found.own_hits:,} tokens: LMCache was not queried "
            f"for them",
            "run the same command again",
        )
    if not found.hits:
        hint = "`gaudi-patch guide troubleshooting`, No hits; a prompt longer than two chunks must hit"
        return refused("no-hits", f"none of {found.expected:,} tokens came from LMCache the second time", hint)
    if found.hits < found.expected:
        return refused(
            "few-hits",
            f"{found.hits:,} of {found.expected:,} tokens came from LMCache the second time",
            "enlarge the pool, or set --chunk-size to LMCache's; see `gaudi-patch size`",
        )
    return None


def _model(server: Server, wanted: str) -> tuple[str, int | None]:
    models = server.models()
    if wanted and wanted not in models:
        raise GaudiPatchError(
            Exit.USAGE, "unknown-model", f"{server.url} does not serve {wanted!r}", f"it serves {', '.join(models)}"
        )
    name = wanted or next(iter(models))
    return name, models[name]


def _again(server: Server, wanted: Wanted, tokens: int) -> str:
    """Return the command line for the same server with a prompt of ``tokens`` tokens."""
    model = ["--model", wanted.model] if wanted.model else []
    sizes = ["--tokens", str(tokens), "--chunk-size", str(wanted.chunk)]
    return shlex.join(["gaudi-patch", "verify", "--url", server.url, *model, *sizes])


def _prompt(seed: int, tokens: int) -> str:
    chosen = random.Random(seed)  # noqa: S311 - words, not keys
    return " ".join(chosen.choice(_WORDS) for _ in range(tokens))


def _counted(server: Server) -> Counters:
    found = counters.read(server.metrics())
    if found.hits is None:
        raise GaudiPatchError(
            Exit.ENVIRONMENT,
            "hits-unknown",
            f"{server.url}/metrics has no {counters.HITS}: no KV connector is configured, or this vLLM does not count",
            "start vLLM with --kv-transfer-config, as `gaudi-patch recipe` writes it, and without --disable-log-stats",
        )
    return found


def _more(before: int | None, after: int | None) -> int:
    return max(0, (after or 0) - (before or 0))
