"""Completion in each installed shell, and its cost."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gaudi_patch.cli import completion
from gaudi_patch.series.manifest import load
from tests.support.cli import environment

#: The console script, for which a shell completes words.
SCRIPT = Path(sys.executable).with_name("gaudi-patch")

BASH = """
eval "$(gaudi-patch --show-completion)"
COMP_WORDS=({line}); COMP_CWORD={last}
_gaudi_patch_completion gaudi-patch
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
FISH = """
gaudi-patch --show-completion | source
complete -C '{line}' | string replace -r '\\t.*' ''
"""
#: zsh completes only at a terminal: this asks in the same way as its completion function.
ZSH = "env _TYPER_COMPLETE_ARGS='{line}' _GAUDI_PATCH_COMPLETE=complete_zsh gaudi-patch"


def run(shell: str, script: str, **env: str) -> subprocess.CompletedProcess[str]:
    path = f"{SCRIPT.parent}{os.pathsep}/usr/bin{os.pathsep}/bin"
    return subprocess.run(
        [shell, "-c", script],
        env=environment(PATH=path, **env),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def offered(shell: str, line: str) -> set[str]:
    """Return the words that a Tab at the end of ``line`` offers."""
    words = line.split(" ")
    scripts = {
        "bash": BASH.format(line=" ".join(one or "''" for one in words), last=len(words) - 1),
        "fish": FISH.format(line=line),
        "zsh": ZSH.format(line=line),
    }
    done = run("bash" if shell == "zsh" else shell, scripts[shell])
    assert done.stderr == ""
    if shell == "zsh":  # _arguments '*: :(("show":"its help" ...
        return set(re.findall(r"""^(?:_arguments '\*: :\(\()?"([^"]+)\"""", done.stdout, re.MULTILINE))
    return set(done.stdout.split())


@pytest.fixture(params=["bash", "zsh", "fish"])
def shell(request: pytest.FixtureRequest) -> str:
    """Return a shell; a test in fish itself needs fish."""
    name = str(request.param)
    if name != "zsh" and not shutil.which(name):
        pytest.skip(f"{name} is not installed")
    if not SCRIPT.exists():
        pytest.skip("gaudi-patch is not installed beside this interpreter")
    return name


def test_verbs_options_and_values_are_offered(shell: str) -> None:
    assert offered(shell, "gaudi-patch sh") == {"show"}
    assert offered(shell, "gaudi-patch check --ag") == {"--against"}
    assert offered(shell, "gaudi-patch smoke kern") == {"kernels"}
    assert offered(shell, "gaudi-patch smoke --device e") == {"emulated"}
    assert offered(shell, "gaudi-patch dev li") == {"lint"}


def test_the_releases_with_a_series_are_offered(shell: str) -> None:
    expected = {one.id for one in load().series if one.id.startswith("0.5.")}
    assert offered(shell, "gaudi-patch show 0.5.") == expected


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_is_one_that_the_shell_reads(shell: str, tmp_path: Path) -> None:
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed")
    script = tmp_path / "script"
    script.write_text(run("bash", "gaudi-patch", _GAUDI_PATCH_COMPLETE=f"source_{shell}").stdout)
    assert run(shell, "gaudi-patch --show-completion; true").stdout.split() == script.read_text().split()
    done = run("bash", f"{shell} -n {script}")
    assert (done.returncode, done.stderr) == (0, "")


def test_installing_it_writes_below_home_and_says_where(tmp_path: Path) -> None:
    # The shell is found among the parents: bash would replace itself with a lone command.
    done = run("bash", "gaudi-patch --install-completion || exit", HOME=str(tmp_path))
    assert done.returncode == 0, done.stdout
    where = tmp_path / ".bash_completions" / "gaudi-patch.sh"
    assert str(where) in done.stdout
    assert where.is_file()
    assert str(where) in (tmp_path / ".bashrc").read_text()


def test_a_tab_imports_nothing_heavy() -> None:
    code = (
        "import atexit, sys\n"
        "heavy = ('git', 'pydantic', 'torch', 'unidiff')\n"
        "atexit.register(lambda: print(*[one for one in heavy if one in sys.modules], file=sys.stderr))\n"
        "sys.argv = ['gaudi-patch']\n"
        "from gaudi_patch.cli import main\nmain()\n"
    )
    for name, line in (("zsh", "gaudi-patch s"), ("fish", "gaudi-patch show 0")):
        env = {"_GAUDI_PATCH_COMPLETE": f"complete_{name}", "_TYPER_COMPLETE_ARGS": line}
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=environment(**env, _TYPER_COMPLETE_FISH_ACTION="get-args"),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stdout
        assert done.stderr == "\n"


def test_a_list_with_commas_is_completed_at_its_end() -> None:
    assert completion.levels("") == ["imports", "kernels", "engine", "connector", "inference"]
    assert completion.levels("imports,ker") == ["imports,kernels"]
    assert "imports,imports" not in completion.levels("imports,")


def test_a_manifest_that_cannot_be_read_offers_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from gaudi_patch.errors import bad_manifest
    from gaudi_patch.series import manifest

    def fail() -> None:
        raise bad_manifest("broken", "manifest.toml")

    monkeypatch.setattr(manifest, "load", fail)
    assert completion.versions("0") == []
