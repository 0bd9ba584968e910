"""Random changes to JSON values and to bytes, for tests that try thousands of broken files."""

import copy
import random
from typing import Any

ODD = (
    *(None, True, False, 0, -1, 1, 0.5, -0.0, 1e150, 1e308, -1e308, 10**30, 10**400, 2**63, 1e-320),
    *("", " ", "x", "0", "nan", "\u03b1", "a\nb", "\x1b[31m", "<b>", "..", "../..", "~", "$HOME", "x" * 3000, "\ud800"),
    *([], {}, [1], [[]], [{}], {"": 1}, {"a": {"b": None}}, ["x"] * 50, {"step": "x"}),
)


def places(value: Any, path: tuple = ()) -> list[tuple]:
    """The paths of all parts of a JSON value, without that of the value itself."""
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for name, part in parts for place in [(*path, name), *places(part, (*path, name))]]


def changed(value: Any, draw: random.Random, times: int) -> Any:
    """A copy of a JSON value in which some parts are replaced, removed, renamed, doubled or exchanged."""
    value = copy.deepcopy(value)
    for _ in range(times):
        everywhere = places(value)
        if not everywhere:
            break
        *path, name = draw.choice(everywhere)
        parent = value
        for part in path:
            parent = parent[part]
        match draw.randrange(5):
            case 0:
                del parent[name]
            case 1 if isinstance(parent, dict):
                parent[draw.choice(["", "x", "step", "loss", "\ud800", "a" * 500])] = parent.pop(name)
            case 2:
                *other, last = draw.choice(everywhere)
                source = value
                for part in other:
                    source = source[part] if _has(source, part) else {}
                parent[name] = copy.deepcopy(source[last]) if _has(source, last) else None
            case _:
                parent[name] = copy.deepcopy(draw.choice(ODD))
    return value


def _has(value: Any, name: Any) -> bool:
    return (isinstance(value, dict) and name in value) or (
        isinstance(value, list) and isinstance(name, int) and name < len(value)
    )


def damaged(content: bytes, draw: random.Random) -> bytes:
    """Bytes that were cut off, overwritten, doubled or mixed."""
    content = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 5))):
        at, length = draw.randrange(len(content) + 1), draw.choice((1, 1, 4, 40))
        match draw.randrange(6):
            case 0:
                del content[at:]
            case 1:
                del content[at : at + length]
            case 2:
                content[at : at + length] = draw.randbytes(length)
            case 3:
                content[at:at] = content[at : at + 200]
            case 4:
                content[at:at] = draw.choice(
                    (b"\0", b"\xff", b"\xef\xbb\xbf", b"\r", b"{", b"[" * 300, b"1e999", b"NaN")
                )
            case _:
                content[at:at] = draw.choice((b'"', b"\\", b"\\ud800", b"\n", b"\xe2\x80\xa8", b"-", b"9" * 5000))
    return bytes(content)
