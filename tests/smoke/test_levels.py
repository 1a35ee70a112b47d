"""The smoke levels on real wheels: green if the series is applied, otherwise red with the cause."""

from __future__ import annotations

import importlib.util
import marshal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from gaudi_patch.smoke import runner
from gaudi_patch.smoke.outcome import LevelResult
from tests.smoke.conftest import explain, judge
from tests.support.environments import Environment, clean_environment

pytestmark = [pytest.mark.wheels, pytest.mark.torch]

VERSIONS = ["0.5.6", "0.4.4", "0.4.2"]
LEVELS = ("imports", "kernels", "engine")

Overlay = Callable[[str], Environment]


def _files(folder: Path) -> dict[Path, tuple[int, int]]:
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("rules", ["lazy", "eager"])
@pytest.mark.parametrize("version", VERSIONS)
def test_a_patched_release_passes_every_level_and_is_left_as_it_was(version: str, rules: str, patched: Overlay) -> None:
    environment = patched(version)
    before = _files(environment.prefix)
    results = judge(environment.python, *LEVELS, rules=(rules,))
    assert [one.status for one in results] == ["passed"] * 3, explain(results)
    assert {one.device for one in results} == {"emulated"}
    assert all(one.checks > 50 for one in results)
    assert _files(environment.prefix) == before


@pytest.mark.parametrize(
    ("version", "level", "cases"),
    [
        ("0.5.5", "kernels", "multiprocess"),  # the first that serves an HPU in multiprocess mode
        ("0.4.7", "engine", "memory"),  # the first whose engine broadcasts MLA's objects to its only rank
    ],
)
def test_a_part_of_a_level_passes_on_the_first_release_that_has_its_subject(
    version: str, level: str, cases: str, patched: Overlay
) -> None:
    (result,) = judge(patched(version).python, level, arguments={level: ["--cases", cases]})
    assert result.status == "passed", explain([result])
    assert result.checks > 5


def _messages(results: list[LevelResult]) -> str:
    return "\n".join(f"{failure.check}: {failure.message}" for one in results for failure in one.failures)


@pytest.mark.parametrize(
    ("version", "cause"),
    [
        ("0.4.4", "'TensorTuple' object has no attribute 'is_contiguous'"),
        ("0.4.2", "Unsupported device platform for LMCache engine"),
    ],
)
def test_an_unpatched_release_fails_with_the_cause_and_the_remedy(
    version: str, cause: str, lmcache_overlay: Overlay
) -> None:
    results = judge(lmcache_overlay(version).python, *LEVELS)
    assert [one.status for one in results] == ["failed"] * 3, explain(results)
    for one in results:
        assert f"LMCache {version} is not patched for HPU" in one.reason
        assert "`gaudi-patch apply --python " in one.reason
    assert cause in results[1].reason
    assert cause in results[2].reason


def test_the_stock_connector_of_0_5_6_fails_by_its_copies_and_by_the_prefix(lmcache_overlay: Overlay) -> None:
    imports, kernels, engine = judge(lmcache_overlay("0.5.6").python, *LEVELS)
    assert "LMCache detects the device 'cpu', not 'hpu'" in imports.reason
    # Its pool is not pinned, and a synchronize does not cover the bridge's copies into unpinned memory.
    assert "store: the stored object of tokens 0 to 128: 128 of 128 tokens are wrong" in kernels.reason
    prefix = [line for line in _messages([kernels]).split("\n") if "load after a cached prefix" in line]
    assert any("slots that were not to be written have changed" in line for line in prefix)
    assert "a prompt whose prefix vLLM has" in engine.reason


def _write_stale_bytecode(environment: Environment, module: str, source: bytes) -> None:
    """Write an unchecked-hash .pyc of the pristine source: Python runs it regardless of the current source."""
    script = "import importlib.util; print(importlib.util.MAGIC_NUMBER.hex(), importlib.util.cache_from_source('m.py'))"
    done = subprocess.run([str(environment.python), "-c", script], capture_output=True, text=True, check=True)
    magic, name = done.stdout.split()
    if bytes.fromhex(magic) != importlib.util.MAGIC_NUMBER:
        pytest.skip("the tests' Python and the target's have different bytecode")
    path = environment.site_packages / (module.replace(".", "/") + ".py")
    cached = path.parent / "__pycache__" / Path(name).name.replace("m.", f"{path.stem}.", 1)
    cached.parent.mkdir(exist_ok=True)
    code = compile(source, str(path), "exec", dont_inherit=True)
    flags = (1).to_bytes(4, "little")  # hash-based, not checked against the source
    cached.write_bytes(importlib.util.MAGIC_NUMBER + flags + bytes(8) + marshal.dumps(code))


def test_bytecode_that_is_not_of_the_patched_source_is_found(patched_copy: Overlay, lmcache_overlay: Overlay) -> None:
    environment = patched_copy("0.4.2")
    module = "lmcache.v1.gpu_connector.gpu_connectors"
    pristine = lmcache_overlay("0.4.2").site_packages / (module.replace(".", "/") + ".py")
    # Only a constant differs: nothing fails except the comparison.
    _write_stale_bytecode(environment, module, pristine.read_bytes() + b"\nSTALE = 1\n")
    (result,) = judge(environment.python, "imports")
    assert result.status == "failed", explain([result])
    assert f"{module} runs the bytecode in" in result.reason


def test_a_module_that_lmcache_has_under_two_names_passes_with_its_bytecode(patched_copy: Overlay) -> None:
    # lmcache.c_ops is lmcache.non_cuda_equivalents in 0.4.5; pip leaves its bytecode behind.
    environment = patched_copy("0.4.5")
    environment.run("-m", "compileall", "-q", environment.site_packages / "lmcache")
    (result,) = judge(environment.python, "imports")
    assert result.status == "passed", explain([result])


def _prepend(environment: Environment, path: str, line: str) -> None:
    file = environment.site_packages / path
    file.write_text(f"{line}\n{file.read_text()}")


def test_a_module_that_needs_cuda_or_what_nobody_declares_fails(patched_copy: Overlay) -> None:
    environment = patched_copy("0.4.2")
    _prepend(environment, "lmcache/v1/token_database.py", "import cupy")
    (result,) = judge(environment.python, "imports")
    assert result.status == "failed", explain([result])
    assert "it needs the CUDA library cupy" in result.reason
    _prepend(environment, "lmcache/v1/token_database.py", "import no_such_module")
    (result,) = judge(environment.python, "imports")
    assert result.status == "failed", explain([result])
    assert "No module named 'no_such_module'" in result.reason


def test_a_dependency_of_lmcache_that_is_not_there_skips_the_levels_by_name(patched_copy: Overlay) -> None:
    environment = patched_copy("0.4.2")
    (environment.site_packages / "_hide.py").write_text(
        "import sys\n"
        "class Hide:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] == 'sortedcontainers':\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Hide())\n"
    )
    (environment.site_packages / "_hide.pth").write_text("import _hide\n")
    results = judge(environment.python, *LEVELS)
    assert [one.status for one in results] == ["skipped"] * 3, explain(results)
    assert all("LMCache's dependency 'sortedcontainers' is not installed" in one.reason for one in results)


def test_without_a_compiler_for_the_emulated_hpu_every_level_is_skipped(
    lmcache_overlay: Overlay, tmp_path: Path
) -> None:
    environ = {**clean_environment(), "PATH": str(tmp_path), "HPU_EMULATOR_CACHE": str(tmp_path / "cache")}
    environ.pop("CXX", None)
    python = lmcache_overlay("0.4.2").python
    results = runner.run(python, levels=LEVELS, device="emulated", rules=("lazy",), environ=environ)
    assert [one.status for one in results] == ["skipped"] * 3, explain(results)
    assert all("no C++ compiler was found" in one.reason for one in results), [one.reason for one in results]
