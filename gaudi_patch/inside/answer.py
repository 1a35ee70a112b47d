"""Run one script of this directory in the target's interpreter, and send its answer to a separate descriptor.

``answer.py ANSWER QUESTION SCRIPT [ARGUMENT...]``: ANSWER is the number of an inherited descriptor. QUESTION is another
one, which holds a JSON value, or ``-`` for no question. The script defines a function ``answer``, called with the
arguments and the question, if any.

The answer is one line of JSON: ``{"answer": ...}``, or ``{"failed": "ImportError: ..."}`` if the script raised. Output
of the interpreter, at its start or end, cannot mix with it. gaudi_patch/target/ask.py reads the answer. Imports nothing
of gaudi_patch and runs on Python 3.8 or newer.
"""

# ruff: noqa: PTH100, PTH118, PTH119, PTH120, PTH123, PLC0415, RUF100
# Why: pathlib and json take longer to import than the rest of the interpreter takes to start.

from __future__ import annotations

import os
import sys

#: Limits of an answer: its values, and the characters of its strings.
MOST_VALUES = 1_000_000
MOST_CHARACTERS = 256 * 1024 * 1024

TYPE_CHECKING = False  # importing typing costs 3 ms
if TYPE_CHECKING:
    from collections.abc import Callable


def main(argv: list[str]) -> None:
    """Answer, and end at once, without the environment's exit handlers."""
    channel, question, script, arguments = int(argv[0]), argv[1], argv[2], argv[3:]
    os.set_inheritable(channel, False)  # processes that the script starts do not inherit it
    folder = os.path.dirname(script)
    if sys.path and os.path.abspath(sys.path[0]) == folder:
        del sys.path[0]  # before Python 3.11 a script's own directory comes first
    try:
        given = list(arguments)
        if question != "-":
            import json

            with open(int(question), "rb") as stream:
                given.append(json.loads(stream.read()))
        line = encode({"answer": load(script)(*given)})
    except BaseException as error:  # noqa: BLE001 - the environment's code raises whatever it likes, SystemExit too
        line = encode({"failed": " ".join(f"{type(error).__name__}: {error}".split())[:2000]})
    data = line.encode("ascii") + b"\n"
    while data:
        data = data[os.write(channel, data) :]
    os._exit(0)


def load(script: str) -> Callable[..., object]:
    """Run a script without touching sys.path or writing bytecode; return its function ``answer``."""
    name = "gaudi_patch_inside_" + os.path.basename(script)[: -len(".py")]
    module = type(sys)(name)
    module.__file__ = script
    sys.modules[name] = module  # dataclasses look up their module
    with open(script, "rb") as stream:
        exec(compile(stream.read(), script, "exec", dont_inherit=True), module.__dict__)  # noqa: S102 - our own file
    function: Callable[..., object] = module.__dict__["answer"]
    return function


def encode(value: object) -> str:
    """Return ``value`` as one line of ASCII JSON; types unknown to JSON are converted by ``str``."""
    _refuse_bomb(value)
    try:
        # Use the C part of json: the module itself imports re.
        from _json import encode_basestring_ascii, make_encoder

        encoder = make_encoder({}, str, encode_basestring_ascii, None, ":", ",", False, True, True)
        return "".join(encoder(value, 0))
    except (ImportError, TypeError):  # another Python implementation, or another signature of this internal function
        import json

        return json.dumps(value, default=str, skipkeys=True)


def _refuse_bomb(value: object) -> None:
    """Raise ValueError if a small value becomes huge as JSON: YAML's aliases let lists repeat each other."""
    todo, values, characters = [value], MOST_VALUES, MOST_CHARACTERS
    while todo:
        item = todo.pop()
        values -= 1
        if isinstance(item, str):
            characters -= len(item)
        elif isinstance(item, dict):
            todo.extend(item.values())
        elif isinstance(item, (list, tuple)):
            todo.extend(item)
        if values < 0 or characters < 0 or len(todo) > MOST_VALUES:
            raise ValueError("the answer would have too many values")


if __name__ == "__main__":
    main(sys.argv[1:])
