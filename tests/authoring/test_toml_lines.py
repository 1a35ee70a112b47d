"""Line numbers of keys and items, in every form that TOML has for them."""

from __future__ import annotations

import pytest

from gaudi_patch.authoring.toml_lines import positions, tomllib
from gaudi_patch.series.manifest import default_directory


@pytest.mark.parametrize(
    ("text", "where", "line"),
    [
        ("a = 1\nb = 2\n", ("b",), 2),
        ("# c\n\n  a = 1 # x = 2\n", ("a",), 3),
        ('a = "x = 1"\n"b c" = 1\n', ("b c",), 2),
        ("[t]\na = 1\n[u]\na = 2\n", ("u", "a"), 4),
        ("[t]\na = 1\n[u]\na = 2\n", ("u",), 3),
        ("[[t]]\na = 1\n[[t]]\na = 2\n", ("t", 1, "a"), 4),
        ("[[t]]\na = 1\n[[t]]\na = 2\n", ("t", 1), 3),
        ("[[t]]\n[t.u]\na = 1\n[[t]]\n[t.u]\na = 2\n", ("t", 1, "u", "a"), 6),
        ("[[t]]\n[[t.u]]\n[[t.u]]\na = 1\n", ("t", 0, "u", 1, "a"), 4),
        ('["a.b".c]\nd = 1\n', ("a.b", "c", "d"), 2),
        ("a.b.c = 1\na.b.d = 2\n", ("a", "b", "d"), 2),
        ("a = [\n  1, # one, two\n  2,\n]\nb = 1\n", ("a", 1), 3),
        ("a = [1, 2,\n3]\nb = 1\n", ("a", 2), 2),
        ("a = [[1,\n2], [3]]\nb = 1\n", ("a", 1), 2),
        ("a = { b = 1, c = [1, 2] }\nd = 1\n", ("d",), 2),
        ('a = "[{,#"\nb = 1\n', ("b",), 2),
        ("a = '[\"'\nb = 1\n", ("b",), 2),
        ('a = """x\n[t]\ny = 1\n"""\nb = 1\n', ("b",), 5),
        ("a = '''\n]\n'''\nb = [\n'''\n''',\n1]\n", ("b", 1), 7),
        ('a = "\\"] #"\nb = 1\n', ("b",), 2),
        ("a = 2026-01-01 10:00:00\nb = 1\n", ("b",), 2),
        ("a = 1\r\nb = 2\r\n", ("b",), 2),
    ],
)
def test_each_thing_has_its_line(text: str, where: tuple[str | int, ...], line: int) -> None:
    tomllib.loads(text)
    assert positions(text)[where] == line


def test_every_key_and_item_of_the_real_manifest_is_where_it_is_said_to_be() -> None:
    text = (default_directory() / "manifest.toml").read_text()
    document, found, lines = tomllib.loads(text), positions(text), text.split("\n")
    seen = 0
    for index, series in enumerate(document["series"]):
        assert lines[found["series", index] - 1] == "[[series]]"
        for item, name in enumerate(series["patches"]):
            assert f'"{name}"' in lines[found["series", index, "patches", item] - 1]
            seen += 1
    for name, patch in document["patch"].items():
        for key in patch:
            assert lines[found["patch", name, key] - 1].startswith(f"{key} = ")
            assert found["patch", name, key] > found["patch", name]
            seen += 1
    assert seen > 300


def test_a_path_that_is_not_there_has_no_line() -> None:
    assert ("b",) not in positions("a = 1\n")
