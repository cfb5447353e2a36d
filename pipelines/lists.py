"""Lists on a command line: one value stands for a list of one, and an item may be any path."""

import dataclasses
import os
import types
import typing
from collections.abc import Iterator

from sam_engine.errors import ConfigError

_QUOTES = "'\""


def item_type(config_class: type, key: str) -> type | None:
    """Return the type of a list's items; None if the setting is no list."""
    head, _, rest = key.partition(".")
    field = next(field for field in dataclasses.fields(config_class) if field.name == head)
    if rest:
        assert isinstance(field.default_factory, type)
        return item_type(field.default_factory, rest)
    if typing.get_origin(field.type) is not list:
        return None
    [item] = typing.get_args(field.type)
    if isinstance(item, types.UnionType):  # str | None
        item = next(each for each in typing.get_args(item) if each is not type(None))
    assert isinstance(item, type)
    return item


def split_list(key: str, text: str) -> list[str | None]:
    """Return the items of ``[a,b]``, or ``text`` itself as the only one.

    Spaces, letters of any alphabet and parentheses are an item's own. A comma is so inside quotes, inside
    braces (``sa_{0,1}.tar``), and after a backslash. Bare ``null`` is None, and by itself no item; ``~`` is
    the home folder.

    Raises:
        ConfigError: A quote is not closed, or an item is empty.
    """
    if not text:
        raise ConfigError(f"{key} is empty; give a value, or leave it out")
    if text == "null":
        return []
    if not (text.startswith("[") and text.endswith("]")):
        return [_home(text)]
    inner = text[1:-1]
    if not inner.strip():
        return []
    items = list(_items(key, inner))
    if any(not item for item, _ in items):
        raise ConfigError(f"{key}={text}: an item is empty")
    return [None if item == "null" and not is_quoted else _home(item) for item, is_quoted in items]


def _items(key: str, text: str) -> Iterator[tuple[str, bool]]:
    """Yield what stands between commas, without the quotes around it, and whether there were some."""
    item, quote, depth, escaped, quoted = "", "", 0, False, False
    for char in text:
        if escaped:
            item += char if char in ("\\", ",", *_QUOTES) else "\\" + char
            escaped = False
        elif char == "\\":
            escaped = True
        elif quote:
            quote, item = ("", item) if char == quote else (quote, item + char)
        elif char in _QUOTES and not item.strip():
            item, quote, quoted = "", char, True
        elif char == "," and depth == 0:
            yield (item if quoted else item.strip()), quoted
            item, quoted = "", False
        elif not (quoted and char.isspace()):
            depth += (char == "{") - (char == "}" and depth > 0)
            item += char
    if quote:
        raise ConfigError(f"{key}: the quote before {item[:20]!r} is not closed")
    item += "\\" if escaped else ""
    yield (item if quoted else item.strip()), quoted


def _home(item: str) -> str:
    """Return a path with its ``~`` replaced."""
    return os.path.expanduser(item) if item.startswith("~") else item
