"""Forbidden paths in a patch are refused, and names survive git's quoting."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gaudi_patch.series.path_names import QUOTED, quote, unquote, unsafe


@pytest.mark.parametrize(
    "path",
    [
        "lmcache/v1/cache_engine.py",
        "m.py",
        "a b/c d.py",
        "é/日本.py",
        ".hidden",
        "x/.gitignore",
        "..a/b..c/...d",
        "a~b/x~",
        "auxiliary.py",
        "com/lpt/console.py",
        "com10.py",
        "pth/so/pyd.py",
        "path.sorted.py",
        "my_sitecustomize.py",
        "x" * 255,
        "/".join(["x" * 255] * 15 + ["y" * 255]),
    ],
)
def test_an_ordinary_path_is_safe(path: str) -> None:
    assert unsafe(path) == ""


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("", "is empty"),
        ("\x00", "control"),
        ("a\x1fb", "control"),
        ("a\x7fb", "control"),
        ("a\x85b", "control"),
        ("a\u2028b", "control"),
        ("a\u202eb", "control"),
        ("a\udce9b", "UTF-8"),
        ("a\\b", "backslash"),
        ("/a", "absolute"),
        ("C:/a", "colon"),
        ("a:b", "colon"),
        ("a//b", "empty part"),
        ("a/", "empty part"),
        ("./a", "part '.'"),
        ("a/./b", "part '.'"),
        ("a/..", "part '..'"),
        ("../a", "part '..'"),
        ("a./b", "ends in a dot or a space"),
        ("a /b", "ends in a dot or a space"),
        ("a/b ", "ends in a dot or a space"),
        ("~/a", "begins with ~"),
        ("a/~b", "begins with ~"),
        (".git/config", ".git"),
        ("a/.GIT", ".git"),
        ("x" * 256, "longer than 255"),
        ("é" * 128, "longer than 255"),
        ("/".join(["x" * 255] * 16) + "/y", "longer than 4095"),
        ("aux", "reserved"),
        ("a/Con.py", "reserved"),
        ("NUL.tar.gz", "reserved"),
        ("com1/x", "reserved"),
        ("LPT².py", "reserved"),
        ("a.pth", "not patched"),
        ("a/b.so", "not patched"),
        ("b.so.1", "not patched"),
        ("b.abi3.SO", "not patched"),
        ("b.pyd", "not patched"),
        ("b.dll", "not patched"),
        ("b.dylib", "not patched"),
        ("b.pyc", "not patched"),
        ("b.pyo", "not patched"),
        ("sitecustomize.py", "not patched"),
        ("SiteCustomize.py", "not patched"),
        ("sitecustomize/__init__.py", "not patched"),
        ("x/usercustomize.py", "not patched"),
    ],
)
def test_an_unsafe_path_is_refused_with_the_reason(path: str, why: str) -> None:
    assert why in unsafe(path)


@pytest.mark.parametrize(
    ("name", "written"),
    [
        (b"a/x y.py", b"a/x y.py"),
        ("a/é.py".encode(), rb'"a/\303\251.py"'),
        (b"~X ", b"~X "),
        (b"~\xff", rb'"~\377"'),
        (b"\x1f", rb'"\037"'),
        (b"\x7f", rb'"\177"'),
        (b'a/"', rb'"a/\""'),
        (b"a\\b", rb'"a\\b"'),
        (bytes(range(7, 14)), rb'"\a\b\t\n\v\f\r"'),
        (b"\x00\x01\x1f\x7f\xff", rb'"\000\001\037\177\377"'),
    ],
)
def test_a_name_is_quoted_as_git_does(name: bytes, written: bytes) -> None:
    assert quote(name) == written


@given(st.binary())
def test_unquote_undoes_quote(name: bytes) -> None:
    written = quote(name)
    if written == name:
        assert not QUOTED.fullmatch(written)
    else:
        assert QUOTED.fullmatch(written)
        assert unquote(written) == name


@pytest.mark.parametrize("token", [b'"', b'"a', b'a"', rb'"\q"', rb'"\8"', rb'"\12"', rb'"\777"', b'"a"b"', b'"a\n"'])
def test_what_git_does_not_write_is_not_quoted(token: bytes) -> None:
    assert not QUOTED.fullmatch(token)
