"""The HTTP client of a vLLM server. Answers are checked for their form, and not trusted beyond it."""

from __future__ import annotations

import json
import math
import re
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.client import HTTPException, HTTPResponse
from queue import Empty, Queue
from typing import Any, NamedTuple, cast
from urllib.parse import urlsplit

from gaudi_patch.errors import Exit, GaudiPatchError

#: Limit of an answer in bytes; a page of metrics with many labels has some hundred thousand.
LIMIT = 32 * 1024 * 1024
#: Bytes that are read at once, and bytes of an error that are shown.
_PIECE, _ERROR = 64 * 1024, 2000
#: Attempts to reset, and the seconds between them.
_RESETS, _RESET_PAUSE = 6, 0.5


class Completion(NamedTuple):
    """An answer: its text, the tokens of its prompt, and the seconds to its first token and to its end."""

    text: str
    prompt_tokens: int
    first_token: float
    total: float


class Server:
    """A server at ``url``, such as http://127.0.0.1:8000; ``key`` is its API key, "" for none; ``timeout`` in seconds.

    Every method raises an environment error if the server is unreachable or its answer is malformed.
    """

    def __init__(self, url: str, key: str, timeout: float) -> None:
        parts = _parts(url)
        if not math.isfinite(timeout):
            raise GaudiPatchError(Exit.USAGE, "usage", f"--timeout {timeout}: is not a valid time; nothing was sent")
        if key and not re.fullmatch(r"[\x21-\x7e]+", key):
            # The key is a secret, and so never quoted.
            what = "VLLM_API_KEY contains a space, a newline or another character that a key may not contain; not sent"
            raise GaudiPatchError(
                Exit.USAGE, "usage", what, "remove whatever follows the key, such as a file's last newline"
            )
        self.url = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/').removesuffix('/v1')}"
        self._key, self._timeout = key, timeout
        handlers: list[urllib.request.BaseHandler] = [_NoRedirects()]
        if parts.hostname in ("127.0.0.1", "::1", "localhost"):
            handlers.append(urllib.request.ProxyHandler({}))
        self._opener = urllib.request.build_opener(*handlers)

    def healthy(self) -> None:
        """Raise unless /health answers, which it does once the model is loaded and warmed up."""
        self._text("/health")

    def models(self) -> dict[str, int | None]:
        """Return the longest request in tokens of each served model, by name; None if it is not stated."""
        answer = _object(self._text("/v1/models"), "/v1/models")
        rows = answer.get("data")
        found = {}
        for row in rows if isinstance(rows, list) else []:
            if isinstance(row, dict) and isinstance(row.get("id"), str):
                longest = row.get("max_model_len")
                found[row["id"]] = longest if type(longest) is int else None
        if not found:
            raise _malformed("/v1/models", "it names no model")
        return found

    def metrics(self) -> str:
        """Return the text of the metrics page."""
        return self._text("/metrics")

    def reset(self) -> None:
        """Reset vLLM's own prefix cache, which would answer before LMCache does.

        vLLM refuses while blocks are in use, such as those that a store still reads, so the reset is tried a few times.
        """
        for left in reversed(range(_RESETS)):
            if not (refusal := self._reset()):
                return
            if left:
                time.sleep(_RESET_PAUSE)
        raise GaudiPatchError(
            Exit.ENVIRONMENT,
            "not-reset",
            f"vLLM did not reset its own prefix cache: {refusal}",
            "verify a server that nobody else uses: blocks of running requests cannot be reset",
        )

    def _reset(self) -> str:
        """Try to reset once; return why vLLM did not reset its prefix cache, "" if it did."""
        try:
            answer = self._text("/reset_prefix_cache", b"")
        except _StatusError as error:
            if error.status not in (404, 405):
                raise
            raise GaudiPatchError(
                Exit.ENVIRONMENT,
                "no-reset",
                f"{self.url} has no /reset_prefix_cache: vLLM's own prefix cache would answer the second request, and "
                f"nothing would be learned about LMCache",
                "start a server for this test with VLLM_SERVER_DEV_MODE=1, and one without it afterwards",
            ) from error
        return _refusal(answer)

    def complete(self, model: str, prompt: str, tokens: int) -> Completion:
        """Complete a prompt: greedily, with ``tokens`` tokens even if the model would end earlier."""
        request = {
            "model": model,
            "prompt": prompt,
            "max_tokens": tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        began = time.monotonic()
        first, prompt_tokens, text = None, 0, []
        for event in self._events("/v1/completions", request):
            for choice in _list(event.get("choices")):
                first = time.monotonic() if first is None else first
                text.append(choice["text"] if isinstance(choice.get("text"), str) else "")
            usage = event.get("usage")
            if isinstance(usage, dict) and type(usage.get("prompt_tokens")) is int:
                prompt_tokens = usage["prompt_tokens"]
        ended = time.monotonic()
        if first is None or not prompt_tokens:
            raise _malformed("/v1/completions", "the stream has no token, or does not say how long the prompt was")
        if not "".join(text):
            raise _malformed(
                "/v1/completions", "the answer is empty, and two empty answers are equal whatever was computed"
            )
        return Completion("".join(text), prompt_tokens, first - began, ended - began)

    def _events(self, path: str, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield the objects of a stream of server-sent events; raise if it breaks off before its end."""
        rest = b""
        with self._open(path, json.dumps(request).encode(), "application/json") as response:
            for piece in self._pieces(response, path):
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    if not line.startswith(b"data:"):
                        continue
                    data = line.removeprefix(b"data:").strip()
                    if data == b"[DONE]":
                        return
                    event = _object(data.decode("utf-8", "replace"), path)
                    if "error" in event:
                        raise _malformed(path, f"it ended with {json.dumps(event['error'])[:300]}")
                    yield event
        raise _malformed(path, "the stream ended early")

    def _pieces(self, response: HTTPResponse, path: str) -> Iterator[bytes]:
        """Yield an answer as it arrives; raise if it is too long, or unfinished after twice the time limit.

        An answer of one byte now and then would never reach the time limit of the socket.
        """
        ends, read = time.monotonic() + 2 * self._timeout, 0
        try:
            while piece := response.read1(_PIECE):
                read += len(piece)
                if read > LIMIT:
                    raise _malformed(path, f"the answer is longer than {LIMIT:,} bytes")
                if time.monotonic() > ends:
                    raise _unreachable(self.url + path, TimeoutError("its answer does not end"))
                yield piece
        except (OSError, HTTPException) as error:
            raise _unreachable(self.url + path, error) from error

    def _text(self, path: str, body: bytes | None = None) -> str:
        with self._open(path, body, "text/plain") as response:
            content = b"".join(self._pieces(response, path))
        return content.decode("utf-8", "replace")

    def _open(self, path: str, body: bytes | None, kind: str) -> HTTPResponse:
        headers = {"User-Agent": "gaudi-patch"}
        headers |= {"Content-Type": kind} if body else {}
        headers |= {"Authorization": f"Bearer {self._key}"} if self._key else {}
        request = urllib.request.Request(self.url + path, body, headers)  # noqa: S310 - http and https alone, see _parts
        try:
            return self._headed(request)
        except urllib.error.HTTPError as error:
            with error:
                raise _StatusError(self.url + path, error.code, self._why(error, path)) from error
        except (OSError, HTTPException, ssl.SSLError, ValueError) as error:
            raise _unreachable(self.url + path, error) from error

    def _headed(self, request: urllib.request.Request) -> HTTPResponse:
        """Return the answer once its headers have arrived; raise TimeoutError after twice the time limit.

        Headers of one byte now and then never reach the time limit of the socket, so another thread waits for them.
        """
        came: Queue[HTTPResponse | Exception] = Queue()

        def wait() -> None:
            try:
                came.put(cast(HTTPResponse, self._opener.open(request, timeout=self._timeout)))
            except Exception as error:  # raised again below, in the calling thread
                came.put(error)

        threading.Thread(target=wait, daemon=True).start()
        try:
            answer = came.get(timeout=min(2 * self._timeout, threading.TIMEOUT_MAX))
        except Empty:
            raise TimeoutError("the headers of its answer do not end") from None
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _why(self, error: urllib.error.HTTPError, path: str) -> str:
        """Return the beginning of an error's body; if it stalls, what has arrived."""
        said = b""
        try:
            for piece in self._pieces(cast(HTTPResponse, error.fp), path):
                said += piece
                if len(said) >= _ERROR:
                    break
        except GaudiPatchError:
            said += b"\n(the rest of the answer did not come)"
        return said[-_ERROR:].decode("utf-8", "replace")


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A handler that follows no redirect: the key is only for the named server."""

    def redirect_request(self, *arguments: Any) -> None:  # noqa: ANN401 - urllib's own signature
        return None


class _StatusError(GaudiPatchError):
    """The server answered with a status other than 2xx."""

    def __init__(self, url: str, status: int, body: str) -> None:
        if status in (401, 403):
            code, hint = "unauthorized", "give the server's key in the environment: VLLM_API_KEY"
        else:
            code, hint = "server-error", "see the server's log"
        super().__init__(Exit.ENVIRONMENT, code, f"{url} answered with status {status}", hint)
        self.status = status
        self.details = [line for line in body.splitlines() if line.strip()][:5]


def _parts(url: str) -> Any:  # noqa: ANN401 - urllib.parse's own type differs by version
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    useless = parts.username is not None or parts.query or parts.fragment or port == 0
    if parts.scheme not in ("http", "https") or not parts.hostname or useless:
        raise GaudiPatchError(
            Exit.USAGE,
            "usage",
            f"--url {url!r}: must be http://HOST:PORT or https://HOST:PORT, without a key in it",
            "such as --url http://127.0.0.1:8000; the key is taken from VLLM_API_KEY",
        )
    return parts


def _object(text: str, path: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _malformed(path, "the answer is not JSON") from error
    if not isinstance(found, dict):
        raise _malformed(path, "the answer is not a JSON object")
    return found


def _refusal(answer: str) -> str:
    """Return why a reset failed although its status was 200; "" if it succeeded.

    vLLM's answer is empty, or an object with the outcome.
    """
    if not answer.strip():
        return ""
    found = _object(answer, "/reset_prefix_cache")
    if found.get("error"):
        return json.dumps(found["error"])[:300]
    return "" if found.get("success", True) is True else "its blocks are still in use"


def _list(value: object) -> list[dict[str, Any]]:
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def _unreachable(url: str, error: Exception) -> GaudiPatchError:
    reason = getattr(error, "reason", None) or error
    hint = "has it started and warmed up? a long prompt may need a longer --timeout"
    return GaudiPatchError(Exit.ENVIRONMENT, "unreachable", f"{url} cannot be reached: {reason}", hint)


def _malformed(path: str, why: str) -> GaudiPatchError:
    message = f"{path} did not answer as vLLM does: {why}"
    return GaudiPatchError(Exit.ENVIRONMENT, "malformed-answer", message, "is there a vLLM server behind this URL?")
