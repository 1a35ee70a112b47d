"""`verify`: check that a running server reuses cached KV."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from gaudi_patch.cli.options import ChunkOption, ColorOption, FormatOption, JsonOption, command_app
from gaudi_patch.cli.run import finish
from gaudi_patch.errors import Exit
from gaudi_patch.output.report import Color, Fields, Format, Result, Text

if TYPE_CHECKING:
    from gaudi_patch.verify.client import Completion
    from gaudi_patch.verify.round_trip import RoundTrip

app = command_app()


@app.command()
def verify(
    url: Annotated[str, typer.Option("--url", metavar="URL", help="The server, such as http://127.0.0.1:8000.")],
    model: Annotated[
        str, typer.Option("--model", metavar="NAME", help="One of the server's models (default: the first).")
    ] = "",
    tokens: Annotated[
        int,
        typer.Option("--tokens", metavar="N", min=1, help="Words in the prompt; each is at least one token."),
    ] = 2048,
    chunk: ChunkOption = 256,
    timeout: Annotated[
        float,
        typer.Option("--timeout", metavar="SECONDS", min=0.1, help="Seconds to wait while the server sends no data."),
    ] = 600.0,
    as_json: JsonOption = False,
    output_format: FormatOption = Format.TEXT,
    color: ColorOption = Color.AUTO,
) -> None:
    """Send a running server one prompt twice, and count the tokens from LMCache.

    Each run makes a new prompt. Between the two requests, vLLM's own prefix cache is cleared,
    because it would answer first; the server must run with VLLM_SERVER_DEV_MODE=1. Both answers
    must be the same. The second time, every whole chunk of the prompt must come from LMCache, by
    vLLM's own count. An API key is read from VLLM_API_KEY.

    Exits 0 on success, 1 when answers differ or tokens did not come from LMCache, and 4 when the
    server is unreachable, also serves other requests, or does not report its counts.

    Example:

        gaudi-patch verify --url http://127.0.0.1:8000
    """

    def run() -> Result:
        import os
        import secrets

        from gaudi_patch.verify.client import Server
        from gaudi_patch.verify.round_trip import Wanted, ask

        server = Server(url, os.environ.get("VLLM_API_KEY", ""), timeout)
        return described(ask(server, Wanted(model, tokens, chunk=chunk), secrets.randbits(64)))

    finish("verify", run, output_format, color, as_json)


def described(found: RoundTrip) -> Result:
    """Return text and JSON of what the server did, with the exit code."""
    from gaudi_patch.verify.round_trip import fault

    error = fault(found)
    result = Result("verify", error.exit if error else Exit.OK, data=_data(found))
    result.blocks.append(
        Fields(
            [
                ("server", found.url),
                ("model", found.model),
                ("prompt", f"{found.first.prompt_tokens:,} tokens, {found.expected:,} of them in whole chunks"),
                ("first", f"{_milliseconds(found.first)}; {found.first_hits:,} tokens from LMCache"),
                ("second", f"{_milliseconds(found.second)}; {found.hits:,} tokens from LMCache"),
                ("answers", "equal" if found.equal else "different"),
            ]
        )
    )
    if found.first_hits >= found.expected:
        result.warnings.append("the first request already got tokens from LMCache: its time is not that of a miss")
    if error is None:
        result.blocks.append(Text("the server reuses cached KV, with the same answer", "good"))
    else:
        result.errors = [error]
    return result


def _data(found: RoundTrip) -> dict[str, Any]:
    def answer(completion: Completion, hits: int) -> dict[str, Any]:
        return {
            "text": completion.text,
            "ttft_seconds": completion.first_token,
            "seconds": completion.total,
            "hit_tokens": hits,
        }

    return {
        "url": found.url,
        "model": found.model,
        "prompt_tokens": found.first.prompt_tokens,
        "expected_tokens": found.expected,
        "first": answer(found.first, found.first_hits),
        "second": answer(found.second, found.hits),
        "own_hit_tokens": found.own_hits,
        "equal": found.equal,
        "busy": found.busy,
    }


def _milliseconds(answer: Completion) -> str:
    return f"first token after {answer.first_token * 1000:,.1f} ms"
