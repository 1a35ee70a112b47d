"""The path names that a patch may contain, and how git writes them in a header.

A bad name is refused, never normalised. Two systems must not read a name differently, because wheels are unpacked on
every file system, and their RECORD is UTF-8.
"""

from __future__ import annotations

import re

_MAX_PATH_BYTES = 4095  # PATH_MAX of Linux, without its NUL
_MAX_NAME_BYTES = 255  # NAME_MAX of the usual Linux file systems
_DEVICES = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?", re.IGNORECASE | re.DOTALL)
# Run or loaded by the interpreter without an import by name, or not text.
_STARTUP = re.compile(r"(sitecustomize|usercustomize)(\..*)?", re.IGNORECASE | re.DOTALL)
_BINARY = re.compile(r"\.(pth|so|pyd|dll|dylib|pyc|pyo)(\.|$)", re.IGNORECASE)

_ESCAPES = {7: "a", 8: "b", 9: "t", 10: "n", 11: "v", 12: "f", 13: "r", 34: '"', 92: "\\"}
_UNESCAPES = {ord(letter): byte for byte, letter in _ESCAPES.items()}
QUOTED = re.compile(rb'"(?:[^"\\\x00-\x1f]|\\(?:[abtnvfr"\\]|[0-3][0-7][0-7]))*"')


def unsafe(path: str) -> str:
    """Return why a relative POSIX path must not be patched; "" if it may be."""
    if not path:
        return "is empty"
    if not path.isprintable():  # C0, C1, line separators, bidirectional overrides, bytes that are not UTF-8
        return "has a control or unprintable character, or is not UTF-8"
    if "\\" in path:
        return "has a backslash"
    if path.startswith("/"):
        return "is absolute"
    if ":" in path:  # C:x, and NTFS streams
        return "has a colon"
    if len(path.encode()) > _MAX_PATH_BYTES:
        return f"is longer than {_MAX_PATH_BYTES} bytes"
    for part in path.split("/"):
        if why := _unsafe_part(part):
            return why
    return ""


def _unsafe_part(part: str) -> str:
    if part in ("", ".", ".."):
        return f"has the part {part!a}" if part else "has an empty part (//, or a / at the end)"
    if part.endswith((".", " ")):
        return "has a part that ends in a dot or a space"
    if part.startswith("~"):
        return "has a part that begins with ~"
    if part.lower() == ".git":
        return "is inside a .git directory"
    if len(part.encode()) > _MAX_NAME_BYTES:
        return f"has a part longer than {_MAX_NAME_BYTES} bytes"
    if _DEVICES.fullmatch(part):
        return f"has the reserved part {part!a}"
    if _STARTUP.fullmatch(part) or _BINARY.search(part):
        return f"names {part!a}: start-up hooks, bytecode and shared libraries are not patched"
    return ""


def quote(name: bytes) -> bytes:
    r"""Quote a header's name as git does with its default ``core.quotePath``: in C quotes if any byte needs them.

    >>> quote("a/é".encode())
    b'"a/\\303\\251"'
    """
    if all(32 <= byte < 127 and byte not in b'"\\' for byte in name):
        return name
    body = "".join(
        f"\\{_ESCAPES[byte]}" if byte in _ESCAPES else chr(byte) if 32 <= byte < 127 else f"\\{byte:03o}"
        for byte in name
    )
    return f'"{body}"'.encode("ascii")


def unquote(token: bytes) -> bytes:
    """Return the bytes that a name in C quotes stands for; ``token`` matches `QUOTED`."""
    return re.sub(rb"\\([abtnvfr\"\\]|[0-7]{3})", _unescape, token[1:-1])


def _unescape(match: re.Match[bytes]) -> bytes:
    code = match[1]
    return bytes([int(code, 8) if len(code) == 3 else _UNESCAPES[code[0]]])
