"""`dev` gives the same bytes whatever the user's git settings, and touches no repository but its own."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from gaudi_patch.authoring import edit, lint, port
from gaudi_patch.authoring.git_settings import isolated
from gaudi_patch.errors import Exit, GaudiPatchError
from tests.authoring.conftest import BASE, ENGINE, Shelf, changed

#: Lines of a user's ~/.gitconfig that have changed a patch, lost a hunk, or stopped a command.
HOSTILE = {
    "excludes": "[core]\n excludesFile = {home}/ignore\n",
    "attributes": '[core]\n attributesFile = {home}/attributes\n[diff "py"]\n xfuncname = x\n textconv = tac\n',
    "suppress blank": "[diff]\n suppressBlankEmpty = true\n",
    "no prefix": "[diff]\n noprefix = true\n mnemonicPrefix = true\n",
    "external": "[diff]\n external = /bin/false\n",
    "algorithm": "[diff]\n algorithm = patience\n indentHeuristic = false\n",
    "context": "[diff]\n context = 0\n interHunkContext = 99\n",
    "renames": "[diff]\n renames = copies\n",
    "order": "[diff]\n orderFile = {home}/order\n relative = true\n",
    "autocrlf": "[core]\n autocrlf = true\n eol = crlf\n safecrlf = true\n",
    "colour": "[color]\n ui = always\n[diff]\n colorMoved = zebra\n wsErrorHighlight = all\n",
    "quoting": "[core]\n quotePath = false\n abbrev = 7\n",
    "hooks": "[core]\n hooksPath = {home}/hooks\n",
    "templates": "[init]\n templateDir = {home}/template\n defaultBranch = other\n",
    "signing": "[commit]\n gpgSign = true\n[tag]\n gpgSign = true\n[gpg]\n program = /bin/false\n",
    "messages": "[commit]\n cleanup = strip\n template = {home}/none\n status = true\n verbose = true\n",
    "merging": "[merge]\n conflictStyle = merge\n ff = only\n[rerere]\n enabled = true\n",
    "status": "[status]\n showUntrackedFiles = no\n branch = true\n[core]\n fsmonitor = /bin/false\n",
    "broken": "[core\n",
}


def hostile(home: Path, lines: str) -> dict[str, str]:
    """Create a home directory with a git configuration and its files; return the variables that make git read it."""
    (home / "hooks").mkdir(parents=True)
    (home / "template/hooks").mkdir(parents=True)
    for hook in ("pre-commit", "commit-msg", "prepare-commit-msg", "post-checkout", "applypatch-msg"):
        for folder in ("hooks", "template/hooks"):
            (home / folder / hook).write_text("#!/bin/sh\necho hook ran >> $HOME/ran\nexit 1\n")
            (home / folder / hook).chmod(0o755)
    (home / "template/info").mkdir()
    (home / "template/info/exclude").write_text("*.py\n")
    (home / "ignore").write_text("gaudi*\nengine.py\n")
    (home / "attributes").write_text("*.py -text diff=py ident filter=x\n")
    (home / "order").write_text("*z.py\n*.py\n")
    (home / ".gitconfig").write_text(lines.format(home=home))
    return {"HOME": str(home), "XDG_CONFIG_HOME": str(home / "none"), "GIT_CONFIG_GLOBAL": str(home / ".gitconfig")}


@pytest.fixture
def shelf(shelf: Shelf) -> Shelf:
    """Return a release with an empty line in the context of these tests' change."""
    shelf.release("1.0.0", {**BASE, "lmcache/engine.py": changed(ENGINE, ("line_14 = 14\n", "line_14 = 14\n\n"))})
    (shelf.directory / "manifest.lock").unlink()
    lint.lint(shelf.directory, write=True)
    return shelf


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a user without a git configuration."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    for name in [name for name in os.environ if name.startswith(("GIT_", "XDG_"))]:
        monkeypatch.delenv(name)
    return home


def own_git(folder: Path, *arguments: str) -> None:
    """Do a user's git work in a worktree, with a git without the settings under test."""
    with isolated():
        subprocess.run(["git", *arguments], cwd=folder, capture_output=True, check=True)


def kept(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def change(shelf: Shelf, folder: Path) -> dict[str, bytes]:
    """Edit a series, amend a commit next to an empty line and with a new file, and refresh."""
    edit.edit("1.0.0", folder, shelf.directory)
    (folder / "lmcache/engine.py").write_text(
        (folder / "lmcache/engine.py").read_text().replace("line_12 = 12\n", "line_12 = 'twelve'\n")
    )
    (folder / "lmcache/gaudi_more.py").write_text("MORE = 1\n")
    own_git(folder, "add", "--all", "--force", "lmcache")
    own_git(folder, "commit", "--quiet", "--amend", "--no-edit", "--no-verify")
    assert edit.refresh(folder, shelf.directory).written == ("route/1.0.0.patch",)
    return kept(shelf.directory)


@pytest.fixture
def expected(shelf: Shelf, user: Path, tmp_path: Path) -> dict[str, bytes]:
    """Return the output of `change` for a user without settings, then restore the patches."""
    before = kept(shelf.directory)
    after = change(shelf, tmp_path / "plain")
    for name, data in before.items():
        (shelf.directory / name).write_bytes(data)
    return after


@pytest.mark.parametrize("name", HOSTILE)
def test_edit_and_refresh_give_the_same_bytes_whatever_git_is_set_to(
    name: str, shelf: Shelf, expected: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in hostile(tmp_path / "other", HOSTILE[name]).items():
        monkeypatch.setenv(variable, value)
    assert change(shelf, tmp_path / "hostile") == expected
    assert not (tmp_path / "other/ran").exists()


def test_the_settings_of_the_worktree_itself_change_no_byte(
    shelf: Shelf, expected: dict[str, bytes], tmp_path: Path
) -> None:
    """A user or a tool may set them there."""
    folder = tmp_path / "own"
    edit.edit("1.0.0", folder, shelf.directory)
    hostile(tmp_path / "other", "")
    with (folder / ".git/config").open("a") as stream:
        for name, lines in HOSTILE.items():
            if name not in ("broken", "templates"):
                stream.write(lines.format(home=tmp_path / "other"))
    (folder / ".git/info/attributes").write_text("*.py -diff\n")
    assert edit.refresh(folder, shelf.directory).written == ()


@pytest.mark.parametrize("name", ["merging", "autocrlf", "hooks", "signing", "excludes", "renames", "messages"])
def test_a_port_gives_the_same_bytes_whatever_git_is_set_to(
    name: str, shelf: Shelf, user: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {**BASE, "lmcache/engine.py": changed(ENGINE, ("line_3 = 3\n", "line_3 = 'three'\n"))}
    shelf.release("1.0.1", files)
    before = kept(shelf.directory)
    port.port("1.0.0", "1.0.1", tmp_path / "plain", shelf.directory, port.PortOptions(smoke=False))
    wanted = kept(shelf.directory)
    for path in set(wanted) - set(before):
        (shelf.directory / path).unlink()
    for path, data in before.items():
        (shelf.directory / path).write_bytes(data)
    for variable, value in hostile(tmp_path / "other", HOSTILE[name]).items():
        monkeypatch.setenv(variable, value)
    result = port.port("1.0.0", "1.0.1", tmp_path / "hostile", shelf.directory, port.PortOptions(smoke=False))
    assert result.exit is Exit.OK
    assert kept(shelf.directory) == wanted


def test_a_conflict_shows_all_three_sides_whatever_git_is_set_to(
    shelf: Shelf, user: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in hostile(tmp_path / "other", HOSTILE["merging"] + HOSTILE["colour"]).items():
        monkeypatch.setenv(variable, value)
    shelf.release("1.0.1", {**BASE, "lmcache/engine.py": changed(ENGINE, ("line_5 = 5\n", "line_5 = 'cuda'\n"))})
    assert port.port("1.0.0", "1.0.1", tmp_path / "w", shelf.directory).exit is Exit.REFUSED
    text = (tmp_path / "w/lmcache/engine.py").read_text()
    assert "|||||||" in text
    assert "line_5 = 5" in text


def test_git_variables_of_the_caller_reach_no_other_repository(
    shelf: Shelf, expected: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For example in a hook of another repository, where git has set them."""
    other = tmp_path / "repository"
    other.mkdir()
    own_git(other, "init", "--quiet")
    (other / "mine.py").write_text("mine\n")
    own_git(other, "add", "mine.py")
    before = kept(other)
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(other))
    monkeypatch.setenv("GIT_INDEX_FILE", str(other / ".git/index"))
    monkeypatch.setenv("GIT_OBJECT_DIRECTORY", str(other / ".git/objects"))
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "diff.noprefix")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "true")
    monkeypatch.setenv("GIT_EXTERNAL_DIFF", "/bin/false")
    monkeypatch.setenv("GIT_DIFF_OPTS", "--unified=0")
    monkeypatch.setenv("GIT_LITERAL_PATHSPECS", "1")
    monkeypatch.setenv("GIT_AUTHOR_DATE", "nonsense")
    assert change(shelf, tmp_path / "w") == expected
    assert kept(other) == before
    assert os.environ["GIT_DIR"] == str(other / ".git")  # restored


def test_a_repository_that_the_user_trusts_is_trusted_still(user: Path, tmp_path: Path) -> None:
    (user / ".gitconfig").write_text("[safe]\n directory = /srv/one\n directory = /srv/two\n[diff]\n noprefix = true\n")
    with isolated():
        said = subprocess.run(["git", "config", "--list"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert said.stdout.splitlines() == ["safe.directory=/srv/one", "safe.directory=/srv/two"]


def test_what_git_says_when_it_fails_is_a_message(shelf: Shelf, user: Path, tmp_path: Path) -> None:
    edit.edit("1.0.0", tmp_path / "w", shelf.directory)
    before = kept(shelf.directory)
    (tmp_path / "w/.git/index").write_bytes(b"damaged")
    with pytest.raises(GaudiPatchError) as caught:
        edit.refresh(tmp_path / "w", shelf.directory)
    assert (caught.value.exit, caught.value.code) == (Exit.ENVIRONMENT, "git-failed")
    assert any("index" in line for line in caught.value.details)
    assert kept(shelf.directory) == before


def test_bytecode_in_the_worktree_is_no_change(shelf: Shelf, user: Path, tmp_path: Path) -> None:
    edit.edit("1.0.0", tmp_path / "w", shelf.directory)
    (tmp_path / "w/lmcache/__pycache__").mkdir()
    (tmp_path / "w/lmcache/__pycache__/engine.cpython-311.pyc").write_bytes(b"\0")
    assert edit.refresh(tmp_path / "w", shelf.directory).written == ()
