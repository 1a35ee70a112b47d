"""Bytecode is judged by the interpreter that would run it, in every version installed here."""

from __future__ import annotations

import base64
import subprocess
from pathlib import Path

import pytest

from tests.inside.test_scripts import interpreters, run

SOURCE = (
    b'"""Doc."""\nimport os\n\n\nclass A:\n    def f(self, x=(1, 2.5, "a", b"b", None)):\n'
    b"        assert x\n        return [y for y in x]\n"
)


def compiled(python: Path, folder: Path, text: bytes, name: str, level: int = 0, *options: str) -> bytes:
    """Return the unchecked .pyc that this interpreter itself writes for ``text`` in the file ``name``."""
    source, out = folder / name, folder / "out.pyc"
    source.parent.mkdir(parents=True, exist_ok=True)
    source.write_bytes(text)
    program = (
        "import py_compile, sys; py_compile.compile(sys.argv[1], sys.argv[2], doraise=True, optimize=int(sys.argv[3]), "
        "invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)"
    )
    subprocess.run([python, *options, "-c", program, source, out, str(level)], check=True)
    return out.read_bytes()


@pytest.mark.parametrize("python", interpreters(), ids=str)
def test_every_interpreter_knows_its_own_code_and_no_other(python: Path, tmp_path: Path) -> None:
    own = compiled(python, tmp_path, SOURCE, "lmcache/m.py")
    first = compiled(python, tmp_path, SOURCE, "lmcache/m.py", 1)
    other = compiled(python, tmp_path, SOURCE + b"# more\n", "lmcache/m.py")
    elsewhere = compiled(python, tmp_path, SOURCE, "elsewhere/lmcache/m.py")
    named = compiled(python, tmp_path, SOURCE, "lmcache/other.py")
    cases = [
        (own, "", ""),
        (first, "1", ""),
        (elsewhere, "", ""),
        (b"\0\0\r\n" + own[4:], "", ""),  # another version's
        (own[:4] + b"\x03" + other[5:], "", ""),  # checked before each use
        (first, "", "contains code that differs from its source"),
        (other, "", "was compiled from a different source, and Python uses it unchecked"),
        (named, "", f"contains the code of {tmp_path / 'lmcache/other.py'}"),
        (own[:16] + b"N", "", "contains no code"),
        (own[:30], "", "cannot be loaded"),
    ]
    question = [
        {
            "path": str(tmp_path / "lmcache/m.py"),
            "name": "lmcache/m.py",
            "data": base64.b64encode(SOURCE).decode(),
            "optimization": level,
            "cached": base64.b64encode(data).decode(),
        }
        for data, level, _ in cases
    ]
    answers = run(python, "compare_pyc.py", question=question)["answer"]
    assert isinstance(answers, list)
    assert [answer.partition(" (")[0] for answer in answers] == [reason for *_, reason in cases]
