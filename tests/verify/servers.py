"""A small server that speaks as much of vLLM's API as `verify` needs, with its own cache and its own LMCache."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

CHUNK = 256


@dataclass
class Behaviour:
    """The ways in which the server behaves correctly or not; ``asked`` lists the requests that it received."""

    key: str = ""
    dev_mode: bool = True
    stores: bool = True
    given: int | None = None  # tokens of a hit; None: all whole chunks
    forgets: bool = True
    reset_answer: str = ""  # with status 200
    refused_resets: int = 0  # number of resets answered as not done
    stalls: str = ""  # a path whose answer is an error with a body that never arrives
    drips: str = ""  # a path whose answer arrives byte by byte and never ends
    drips_headers: str = ""  # a path whose headers arrive that way
    wrong: bool = False
    counts: bool = True
    others: int = 0  # prompt tokens of other users, for each of ours
    breaks_off: bool = False
    empty: bool = False
    fails: str = ""
    longest: int = 8192
    asked: list[str] = field(default_factory=list)
    own: set[str] = field(default_factory=set)
    kept: set[str] = field(default_factory=set)
    hits: int = 0
    own_hits: int = 0
    prompts: int = 0


class _Handler(BaseHTTPRequestHandler):
    behaviour: Behaviour

    def do_GET(self) -> None:
        has = self.behaviour
        has.asked.append(self.path)
        if self._never_ends():
            return
        if self.path == "/health":
            self._answer(200, "")
        elif has.key and self.path.startswith("/v1") and self.headers["Authorization"] != f"Bearer {has.key}":
            self._answer(401, '{"error": "Unauthorized"}')
        elif self.path == "/v1/models":
            self._answer(200, json.dumps({"data": [{"id": "tiny", "max_model_len": has.longest}]}))
        elif self.path == "/metrics":
            self._answer(200, self._metrics())
        else:
            self._answer(404, "Not Found")

    def do_POST(self) -> None:
        has = self.behaviour
        has.asked.append(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self._never_ends():
            return
        if self.path == "/reset_prefix_cache" and has.dev_mode:
            if has.forgets:
                has.own.clear()
            has.refused_resets -= 1
            self._answer(200, '{"success": false}' if has.refused_resets >= 0 else has.reset_answer)
        elif self.path == "/v1/completions":
            self._complete(json.loads(body))
        else:
            self._answer(404, "Not Found")

    def _never_ends(self) -> bool:
        """Answer as a hanging server does, until the client leaves; return whether this path was to hang."""
        has = self.behaviour
        if self.path == has.drips_headers:
            with contextlib.suppress(OSError):
                self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
                for _ in range(400):
                    self.wfile.write(b"a")
                    time.sleep(0.05)
            return True
        if self.path not in (has.stalls, has.drips):
            return False
        self.send_response(500 if self.path == has.stalls else 200)
        self.send_header("Content-Length", "100000")
        self.end_headers()
        with contextlib.suppress(OSError):
            if self.path == has.stalls:
                self.wfile.write(b"out of memory")
                self.rfile.read(1)  # returns when the client leaves
            while self.path == has.drips:
                self.wfile.write(b":")
                time.sleep(0.05)
        return True

    def _complete(self, request: dict[str, Any]) -> None:
        has, prompt = self.behaviour, request["prompt"]
        tokens = len(prompt.split())
        has.prompts += tokens + has.others
        whole = (tokens - 1) // CHUNK * CHUNK
        hit = False
        if prompt in has.own:
            has.own_hits += whole
        elif prompt in has.kept:
            hit = True
            has.hits += whole if has.given is None else has.given
        has.own.add(prompt)
        if has.stores:
            has.kept.add(prompt)
        words = ["a", " b", " c"] if not (hit and has.wrong) else ["a", " b", " \x1b[31md"]
        if has.empty:
            words = [""]
        events: list[dict[str, Any]] = [{"choices": [{"text": word}]} for word in words]
        events.append({"choices": [], "usage": {"prompt_tokens": tokens, "completion_tokens": 3}})
        if has.fails:
            events.insert(1, {"error": {"message": has.fails}})
        lines = [f"data: {json.dumps(event)}\n\n" for event in events]
        self._answer(200, "".join(lines if has.breaks_off else [*lines, "data: [DONE]\n\n"]))

    def _metrics(self) -> str:
        has = self.behaviour
        lines = [
            "# HELP vllm:prompt_tokens_total Number of prefill tokens processed.",
            f'vllm:prompt_tokens_total{{engine="0",model_name="ti}}ny"}} {has.prompts}.0',
            f'vllm:prefix_cache_hits_total{{engine="0"}} {has.own_hits}.0',
            'vllm:num_requests_running{engine="0"} 0.0',
            "lmcache:nothing NaN",
        ]
        if has.counts:
            # Two engines, whose counts are added up.
            lines.append(f'vllm:external_prefix_cache_hits_total{{engine="0"}} {has.hits}.0')
            lines.append('vllm:external_prefix_cache_hits_total{engine="1"} 7.0')
        return "\n".join(lines)

    def _answer(self, status: int, text: str) -> None:
        content = text.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(behaviour: Behaviour) -> Iterator[str]:
    """Serve until the block ends; yield the URL."""
    handler = type("Handler", (_Handler,), {"behaviour": behaviour})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
