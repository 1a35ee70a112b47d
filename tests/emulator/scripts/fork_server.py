"""Run programs in forks of a process that has imported PyTorch: the import takes most of a short program's time.

Reads one JSON object per line, ``{"program", "environment", "path"}``, and answers with ``{"returncode", "stdout",
"stderr"}``. A program runs as with ``python -c``, in an interpreter that has imported only PyTorch.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import traceback
import types
from typing import Any, NoReturn

import torch  # noqa: F401 - what the forks are to share


def _child(request: dict[str, Any], out: int, err: int) -> NoReturn:
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(out, 1)
    os.dup2(err, 2)
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.path[:0] = request["path"]
    sys.argv = ["-c"]
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    status = 0
    try:
        exec(compile(request["program"], "<string>", "exec"), main.__dict__)
    except SystemExit as leaving:
        status = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def main() -> None:
    here = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120 - as Python put it on the path
    sys.path[:] = [entry for entry in sys.path if entry != here]
    for line in sys.stdin:
        request = json.loads(line)
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            child = os.fork()
            if child == 0:
                _child(request, out.fileno(), err.fileno())
            _, status = os.waitpid(child, 0)
            answer = {"returncode": os.waitstatus_to_exitcode(status)}
            for name, stream in (("stdout", out), ("stderr", err)):
                stream.seek(0)
                answer[name] = stream.read().decode(errors="replace")
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
