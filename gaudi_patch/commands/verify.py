"""`verify`: whether a running server gives cached KV back."""

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
        str, typer.Option("--model", metavar="NAME", help="A model that it serves (default: the first).")
    ] = "",
    tokens: Annotated[
        int, typer.Option("--tokens", metavar="N", min=1, help="Words of the prompt; each is at least one token.")
    ] = 2048,
    chunk: ChunkOption = 256,
    timeout: Annotated[
        float, typer.Option("--timeout", metavar="SECONDS", min=0.1, help="Seconds to wait without data from it.")
    ] = 600.0,
    as_json: JsonOption = False,
    output_format: FormatOption = Format.TEXT,
    color: ColorOption = Color.AUTO,
) -> None:
    """Ask a running server one prompt twice, and count what LMCache gave.

    The prompt is a new one in each run. In between, vLLM forgets its own prefix cache, which would
    answer first: the server has to run with VLLM_SERVER_DEV_MODE=1. Both answers have to be the
    same, and every whole chunk of the prompt has to come from LMCache the second time, by vLLM's
    own count. An API key is read from VLLM_API_KEY.

    It exits 0 when all of that holds, 1 when answers differ or tokens did not come from LMCache,
    and 4 when the server is not reached, serves others too, or does not tell.

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
    """Return text and JSON of what the server did, with the exit code that it deserves."""
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
        result.warnings.append("tokens came from LMCache the first time already: the first time is no miss's")
    if error is None:
        result.blocks.append(Text("The server gives cached KV back, with the same answer", "good"))
    else:
        result.errors = [error]
    return result


def _data(found: RoundTrip) -> dict[str, Any]:
    def answer(one: Completion, hits: int) -> dict[str, Any]:
        return {"text": one.text, "ttft_seconds": one.first_token, "seconds": one.total, "hit_tokens": hits}

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
