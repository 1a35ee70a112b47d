"""The scripts that a target's interpreter runs: old syntax, no import of gaudi_patch, one answer each."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from gaudi_patch import inside

FOLDER = Path(inside.__file__).parent
SCRIPTS = sorted(path for path in FOLDER.glob("*.py") if path.name != "__init__.py")
#: Not run on their own: one runs the others, and one is used by the tool and its probes.
HELPERS = ("answer.py", "lifeline.py", "measurement.py")


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"alone_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def interpreters() -> list[Path]:
    """Return every other installed Python, version 3.8 or newer."""
    roots = (Path.home() / ".pyenv/versions", Path("/usr/bin"), Path("/usr/local/bin"))
    found = [*roots[0].glob("3.*/bin/python3"), *(p for root in roots[1:] for p in root.glob("python3.[0-9]*"))]
    names = [path for path in found if path.name in {"python3"} or path.name.removeprefix("python3.").isdigit()]
    return [path for path in names if _minor(path) >= 8]


def _minor(path: Path) -> int:
    done = subprocess.run(
        [path, "-c", "import sys; print(sys.version_info[1])"], capture_output=True, text=True, check=False
    )
    return int(done.stdout) if done.returncode == 0 else 0


def run(python: Path | str, script: str, *arguments: str, question: object = None) -> dict[str, object]:
    """Run a script as target/ask.py does, but without its code."""
    answers, answering = os.pipe()
    reading, sending = os.pipe()
    os.write(sending, json.dumps(question).encode())
    os.close(sending)
    asked = "-" if question is None else str(reading)
    command = [python, "-I", "-B", FOLDER / "answer.py", str(answering), asked, FOLDER / script, *arguments]
    done = subprocess.run(command, pass_fds=(answering, reading), check=False, timeout=60, stdin=subprocess.DEVNULL)
    os.close(answering)
    os.close(reading)
    assert done.returncode == 0
    with open(answers, "rb") as stream:
        found: dict[str, object] = json.loads(stream.read())
    return found


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_has_the_syntax_of_python_3_8_and_imports_nothing_of_ours(script: Path) -> None:
    tree = ast.parse(script.read_bytes(), feature_version=(3, 8))
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {name.name.partition(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            imported.add(str(node.module).partition(".")[0])
    assert imported <= set(sys.stdlib_module_names)
    later = {"removeprefix", "removesuffix", "pidfd_open", "bit_count"}  # of Python 3.9 and 3.10
    assert not later & {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}


@pytest.mark.parametrize("script", [path for path in SCRIPTS if path.name not in HELPERS], ids=lambda path: path.name)
def test_a_script_loads_alone_and_has_an_answer(script: Path) -> None:
    assert callable(load(script).answer)


@pytest.mark.parametrize("python", interpreters(), ids=str)
def test_an_interpreter_that_is_installed_here_answers(python: Path) -> None:
    version = run(python, "version.py")["answer"]
    assert isinstance(version, str) and version.startswith("3.")
    facts = run(python, "sys_path.py", "lmcache")["answer"]
    assert isinstance(facts, dict) and [str(part) for part in facts["version"]] == version.split(".")[:2]
    assert run(python, "hpu.py")["answer"]
    assert run(python, "inspect_target.py", "json", "no_such")["answer"]["missing"] == ["no_such"]  # type: ignore[index]
    request = {"path": "m.py", "data": "eCA9IDEK", "outputs": [["", "unchecked", 0, 6]]}
    (reply,) = run(python, "compile_pyc.py", question=[request])["answer"]  # type: ignore[misc]
    assert reply["error"] == "" and len(reply["outputs"]) == 1  # type: ignore[index]


def test_what_a_script_raises_is_its_answer() -> None:
    assert run(sys.executable, "no_such.py")["failed"].startswith("FileNotFoundError: ")  # type: ignore[attr-defined]
    assert "TypeError" in str(run(sys.executable, "compile_pyc.py", question=1)["failed"])
    found = run(sys.executable, "load_config.py", question={"server": []})["answer"]
    assert found["stage"] == "import" and "lmcache" in found["problem"]  # type: ignore[index]


def test_json_is_the_same_with_and_without_the_inner_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    encode = load(FOLDER / "answer.py").encode
    value = {"a": [1, -2.5, True, None, "é\udc80\n\u2028", float("1e300")], "b": {"c": ()}, 3: Path("/x")}
    fast = encode(value)
    monkeypatch.setitem(sys.modules, "_json", None)
    assert json.loads(fast) == json.loads(encode(value)) and "\n" not in fast and fast.isascii()


@pytest.mark.parametrize("kind", ["fifo", "device", "folder", "large", "missing", "deep", "binary"])
def test_a_yaml_file_that_is_none_is_named_and_never_waited_for(tmp_path: Path, kind: str) -> None:
    pytest.importorskip("yaml")
    path = tmp_path / "config.yaml"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path = Path("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    elif kind == "large":
        with path.open("wb") as stream:
            stream.truncate(1 << 40)
    elif kind == "deep":
        path.write_text("[" * 100_000)
    elif kind == "binary":
        path.write_bytes(b"\xff\x00" * 9)
    found = load(FOLDER / "read_yaml.py").answer({"file": str(path)})
    assert found["stage"] == "load" and found["problem"]


@pytest.mark.parametrize("kind", ["many", "long", "circle"])
def test_a_small_value_that_is_huge_as_json_is_refused(kind: str) -> None:
    value: list[object] = ["x" * 1_000_000] * 1_000 if kind == "long" else ["x"]
    for _ in range(40 if kind == "many" else 0):
        value = [value] * 10
    if kind == "circle":
        value.append(value)
    with pytest.raises(ValueError, match="too many values"):
        load(FOLDER / "answer.py").encode(value)


def test_a_yaml_file_of_aliases_of_aliases_is_an_answer_that_failed(tmp_path: Path) -> None:
    pytest.importorskip("yaml")
    lines = ["a0: &a0 [x, x]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}, *a{n - 1}, *a{n - 1}]" for n in range(1, 30))]
    (tmp_path / "bomb.yaml").write_text("\n".join(lines))
    found = run(sys.executable, "read_yaml.py", question={"file": str(tmp_path / "bomb.yaml")})
    assert "too many values" in str(found["failed"])
