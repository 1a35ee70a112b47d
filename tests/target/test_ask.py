"""An interpreter's answer has its own channel, whatever else the interpreter does; none of it is trusted."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gaudi_patch.target.ask import AskError, Fields, Problem, ask
from tests.support.fake_interpreter import SKIP_TO_SCRIPT, answering, program

Venv = Callable[[str], Path]

#: Code in the target's sitecustomize that must not prevent the answer.
NOISE = {
    "prints without a newline": "import sys; sys.stdout.write('{\"answer\": 1}'); sys.stdout.flush()",
    "prints at exit": "import atexit; atexit.register(print, 'bye')",
    "prints a lot": "import sys; sys.stdout.write('x' * (8 << 20)); sys.stderr.write('y' * (8 << 20))",
    "closes stdout": "import os; os.close(1); os.close(2)",
    "hangs at exit": "import atexit, time; atexit.register(time.sleep, 600)",
    "leaves a thread": "import threading, time; threading.Thread(target=time.sleep, args=(600,)).start()",
    "forks and holds everything": "import os, time\nif os.fork() == 0:\n    time.sleep(600)\n    os._exit(0)",
    "leaves a daemon": (
        "import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep({seconds})\n    os._exit(0)"
    ),
    "starts a program": "import subprocess; subprocess.Popen(['sleep', '600'], close_fds=False)",
    "imports what shadows our names": "import sys; sys.path.insert(0, '{folder}')",
}


@pytest.fixture
def venv(tmp_path: Path) -> Venv:
    """``venv(code)``: create an environment whose sitecustomize runs ``code``."""

    def make(code: str) -> Path:
        site = tmp_path / "venv" / "lib" / f"python3.{sys.version_info[1]}" / "site-packages"
        site.mkdir(parents=True)
        (site / "sitecustomize.py").write_text(code.replace("{folder}", str(site)).replace("{seconds}", "60"))
        for name in ("answer", "version", "sys_path", "lifeline"):
            (site / f"{name}.py").write_text("raise SystemExit(9)")
        (tmp_path / "venv" / "bin").mkdir()
        python = tmp_path / "venv" / "bin" / "python"
        python.symlink_to(Path(sys.executable).resolve())
        (tmp_path / "venv" / "pyvenv.cfg").write_text(f"home = {Path(sys.executable).resolve().parent}\n")
        return python

    return make


def asked(python: Path, timeout: float = 30.0, limit: int = 1 << 20) -> object:
    return ask(python, "version.py", timeout=timeout, environ=dict(os.environ), limit=limit)


def problem(python: Path, timeout: float = 30.0, limit: int = 1 << 20) -> tuple[Problem, str]:
    with pytest.raises(AskError) as caught:
        asked(python, timeout, limit)
    return caught.value.problem, str(caught.value)


@pytest.mark.parametrize("noise", NOISE)
def test_what_an_environment_does_at_its_start_or_end_is_not_in_the_way(venv: Venv, noise: str) -> None:
    python = venv(NOISE[noise])
    begun = time.monotonic()
    assert asked(python, timeout=120) == ".".join(map(str, sys.version_info[:3]))
    assert time.monotonic() - begun < 50, "a process that holds the pipes is not waited for"


@pytest.mark.parametrize(
    ("does", "expected", "words"),
    [
        ("exit 0", Problem.NO_ANSWER, "exit status 0"),
        ("exit 3", Problem.NO_ANSWER, "exit status 3"),
        ("echo broken >&2; exit 3", Problem.NO_ANSWER, "broken"),
        ("kill -9 $$", Problem.NO_ANSWER, "killed by SIGKILL"),
        ("kill -SEGV $$", Problem.NO_ANSWER, "killed by SIGSEGV"),
        ("sleep 600", Problem.TIMEOUT, "within 2 s"),
        ("sleep 600 & exit 0", Problem.NO_ANSWER, "exit status 0"),
        ("setsid sleep 60 & exit 4", Problem.NO_ANSWER, "exit status 4"),
        ("printf '{\"answer\": 1}' >/dev/fd/$2", Problem.NO_ANSWER, "exit status 0"),
        ("echo nonsense >/dev/fd/$2", Problem.INVALID, "not JSON"),
        ("echo '[]' >/dev/fd/$2", Problem.INVALID, "form"),
        ("echo '{}' >/dev/fd/$2", Problem.INVALID, "form"),
        ("echo '{\"failed\": 1}' >/dev/fd/$2", Problem.INVALID, "form"),
        ('echo \'{"failed": "OSError: disk"}\' >/dev/fd/$2', Problem.FAILED, "OSError: disk"),
        ("printf '\\377\\n' >/dev/fd/$2", Problem.INVALID, "not JSON"),
        ("head -c 200000 /dev/zero | tr '\\0' '[' >/dev/fd/$2; echo >/dev/fd/$2", Problem.INVALID, "RecursionError"),
        ("yes | head -c 3000000 | tr -d '\\n' >/dev/fd/$2", Problem.TOO_LARGE, "1,048,576"),
        ("cat /dev/zero >/dev/fd/$2", Problem.TOO_LARGE, "1,048,576"),
        ("while :; do echo yes; done", Problem.TIMEOUT, "within 2 s"),
    ],
)
def test_an_interpreter_that_gives_no_answer_is_an_error_with_the_cause(
    tmp_path: Path, does: str, expected: Problem, words: str
) -> None:
    python = program(tmp_path / "python", f"#!/bin/sh\n{SKIP_TO_SCRIPT}\n{does}\n")
    begun = time.monotonic()
    found, why = problem(python, timeout=2)
    assert (found, words in why) == (expected, True), why
    assert time.monotonic() - begun < 50


@pytest.mark.parametrize("text", ["#!/nonexistent/interpreter\n", "#!/bin/sh\n"])
def test_what_cannot_be_started_is_an_error_with_the_cause(tmp_path: Path, text: str) -> None:
    python = tmp_path / "python"
    python.write_text(text)
    python.chmod(0o755 if "nonexistent" in text else 0o644)
    assert problem(python)[0] is Problem.NOT_STARTED
    assert problem(tmp_path / "a\0b")[0] is Problem.NOT_STARTED


def test_an_endless_answer_does_not_eat_memory(tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    python = program(tmp_path / "python", f"#!/bin/sh\n{SKIP_TO_SCRIPT}\ncat /dev/zero >/dev/fd/$2\n")
    assert problem(python)[0] is Problem.TOO_LARGE
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024


def test_a_background_process_ends_with_the_answer(venv: Venv, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    code = (
        f"import os, time\nif os.fork() == 0:\n    open({str(pid)!r}, 'w').write(str(os.getpid()))\n    time.sleep(99)"
    )
    python = venv(f"{code}\nwhile not os.path.exists({str(pid)!r}): time.sleep(0.01)\ntime.sleep(0.1)")
    asked(python)
    with contextlib.suppress(ProcessLookupError):
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            os.kill(int(pid.read_text()), 0)
            assert Path(f"/proc/{pid.read_text()}/stat").read_text().rpartition(")")[2].split()[0] in "ZXRSD"
            if Path(f"/proc/{pid.read_text()}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return
        pytest.fail("it lives on")


def test_a_large_question_and_a_large_answer_do_not_block_each_other(tmp_path: Path) -> None:
    from gaudi_patch.inside import compile_pyc

    request = compile_pyc.Request("m.py", b"x = 1\n" * 40_000, (compile_pyc.Output("", "checked", 0, 0),))
    question = [request.to_json()] * 20
    answer = ask(
        sys.executable, "compile_pyc.py", timeout=120, environ=os.environ, question=question, limit=64 << 20
    )  # fmt: skip
    assert len(answer) == 20 and len(answer[0]["outputs"][0]) > 100_000


def test_a_question_that_nobody_reads_does_not_hold_us(tmp_path: Path) -> None:
    python = program(tmp_path / "python", answering(["done"]))
    assert ask(python, "x.py", timeout=20, environ=os.environ, question="y" * (4 << 20)) == ["done"]


def test_no_descriptor_and_no_process_is_left(tmp_path: Path) -> None:
    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    def children() -> set[str]:
        return {pid for file in Path("/proc/self/task").glob("*/children") for pid in file.read_text().split()}

    hangs = program(tmp_path / "hangs", "#!/bin/sh\nsleep 600\n")
    answers = program(tmp_path / "answers", answering(1))
    before, others = descriptors(), children()
    for _ in range(3):
        problem(hangs, timeout=0.2)
        problem(tmp_path / "missing")
        ask(answers, "x.py", timeout=20, environ=os.environ, question=[1])
    assert descriptors() == before
    assert children() <= others


def test_an_interrupt_leaves_nothing_running(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    python = program(tmp_path / "python", f"#!/bin/sh\necho $$ >{pid}\nsleep 600\n")

    def interrupt(signum: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 2)
        with pytest.raises(KeyboardInterrupt):
            asked(python)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


@pytest.mark.parametrize(
    ("read", "values"),
    [
        (lambda fields: fields.text("x"), (None, 1, [], {}, True)),
        (lambda fields: fields.flag("x"), (None, 1, 0, "true", [])),
        (lambda fields: fields.number("x"), (None, True, 1.5, "1", 10**30)),
        (lambda fields: fields.texts("x"), (None, "ab", [1], ["a", None], {})),
        (lambda fields: fields.path("x"), (None, 1, "a\0b", "\ud800", "\udfff")),
        (lambda fields: fields.paths("x"), (None, "a", ["a", "a\0b"], [1])),
        (lambda fields: fields.table("x"), (None, [], "", 1)),
        (lambda fields: fields.fields("x"), (None, [], "", 1)),
    ],
)
def test_a_value_of_another_type_is_named(read: Callable[[Fields], object], values: tuple[object, ...]) -> None:
    for value in values:
        with pytest.raises(AskError, match=r"answer\.x is not") as caught:
            read(Fields({"x": value}))
        assert caught.value.problem is Problem.INVALID
    with pytest.raises(AskError, match=r"answer\.x is not"):
        read(Fields({}))


def test_a_path_that_is_no_text_in_the_locale_is_kept() -> None:
    assert Fields({"x": "/opt/\udcff"}).path("x") == os.fsdecode(b"/opt/\xff")
