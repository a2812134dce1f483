"""Items of a JSON array, one at a time: a file of gigabytes in one line takes the memory of its largest item."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from toolenv.data.text_files import read_chunks, short
from toolenv.errors import DataError

MAX_ITEM_CHARS = 1 << 26
_DECODER = json.JSONDecoder()
_SPACE = " \t\n\r"
_AFTER = _SPACE + ",]}"


def read_items(path: str | Path, key: str | None = None) -> Iterator[Any]:
    """The items of the array that a file holds, or of the array under ``key`` of the object that it holds.

    Args:
        path: A JSON file, plain or gzipped.
        key: Name of the array, where the file holds an object.

    Raises:
        DataError: The file cannot be read, is not JSON, or holds no such array; names the item where it breaks.
    """
    text = _Text(path)
    if key is not None:
        _find(text, key)
    text.expect("[", f"needs a list {key!r}" if key else "needs a JSON array")
    number = 0
    while not text.take("]"):
        if number:
            text.expect(",", f"item {number}: is not followed by ',' or ']'")
        number += 1
        yield text.value(f"item {number}")


def array_name(path: str | Path, names: Sequence[str]) -> str | None:
    """The first of these names under which the object that a file begins with holds an array; ``None`` where none does.

    A file that begins with something else, or breaks, is no such file either: reading it says what is wrong.

    Raises:
        DataError: The file cannot be opened, or is not text.
    """
    text = _Text(path)
    if not text.take("{"):
        return None
    while True:
        try:
            name = text.value("a name")
            text.expect(":", "")
            if name in names:
                return str(name) if text.take("[") else None
            text.value("a value")
            text.expect(",", "")
        except DataError:
            return None


def _find(text: _Text, key: str) -> None:
    """Read on to the value of ``key`` in the object that starts here."""
    text.expect("{", "needs a JSON object")
    first = True
    while not text.take("}"):
        if not first:
            text.expect(",", "an entry is not followed by ',' or '}'")
        first = False
        name = text.value("a name")
        text.expect(":", f"the name {short(name)} is not followed by ':'")
        if name == key:
            return
        text.value(f"field {short(name)}")
    raise DataError(f"{text.path}: needs a list {key!r}")


class _Text:
    """A file's text, of which only a window is held."""

    def __init__(self, path: str | Path) -> None:
        self.path = path
        self._chunks = read_chunks(path)
        self._window, self._at = "", 0

    def take(self, mark: str) -> bool:
        """Step over ``mark`` where it comes next."""
        if self._next() != mark:
            return False
        self._at += 1
        return True

    def expect(self, mark: str, reason: str) -> None:
        if not self.take(mark):
            rest = short(self._window[self._at : self._at + 60]) if self._next() else "the end of the file"
            raise DataError(f"{self.path}: {reason}; got {rest}")

    def value(self, what: str) -> Any:
        """The JSON value that comes next; the window grows until it holds it whole."""
        while True:
            self._next()
            try:
                value, end = _DECODER.raw_decode(self._window, self._at)
            except (ValueError, RecursionError) as error:
                if len(self._window) - self._at > MAX_ITEM_CHARS or not self._grow():
                    shown = short(self._window[self._at : self._at + 60])
                    raise DataError(f"{self.path}, {what}: not valid JSON ({error}): {shown}") from error
            else:
                # A number may go on beyond the window, which then ends in the middle of it: 1.|5e3
                ended = end < len(self._window) and (self._window[end] in _AFTER or not isinstance(value, int | float))
                if ended or end - self._at > MAX_ITEM_CHARS or not self._grow():
                    self._at = end
                    return value

    def _next(self) -> str:
        """The next letter that is no space; nothing at the end."""
        while True:
            while self._at < len(self._window):
                if self._window[self._at] not in _SPACE:
                    return self._window[self._at]
                self._at += 1
            if not self._grow():
                return ""

    def _grow(self) -> bool:
        """Read on, about as much as is held, so that a long value is not parsed over and over."""
        wanted = len(self._window) - self._at
        parts = [self._window[self._at :]]
        self._at = 0
        for chunk in self._chunks:
            parts.append(chunk)
            wanted -= len(chunk)
            if wanted <= 0:
                break
        grown = len(parts) > 1
        self._window = "".join(parts)
        return grown
