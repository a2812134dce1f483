"""Text files, plain or gzipped: read line by line or piece by piece, with the place in every error; replaced whole."""

from __future__ import annotations

import codecs
import gzip
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from toolenv.errors import DataError

MAX_LINE_BYTES = 1 << 26
CHUNK_BYTES = 1 << 20


def replace_file(path: Path, content: bytes) -> None:
    """Put content into a file in one step: whoever looks sees what stood there before, or all of it."""
    aside = path.with_name(path.name + ".partial")
    aside.write_bytes(content)
    aside.replace(path)


def read_lines(path: str | Path) -> Iterator[tuple[int, str]]:
    """Lines of a UTF-8 text file, plain or gzipped, numbered from 1, lazily.

    Raises:
        DataError: The file cannot be opened or unpacked, or a line is not UTF-8 or longer than ``MAX_LINE_BYTES``.
    """
    number = 0

    def place() -> str:
        return f", after line {number}" if number else ""

    with _reading(path, place) as file:
        while line := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            if len(line) > MAX_LINE_BYTES:
                reason = f"is longer than {MAX_LINE_BYTES} bytes; write one record a line"
                raise DataError(f"{path}, line {number}: {reason}")
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise DataError(f"{path}, line {number}: not UTF-8 ({error.reason} at byte {error.start})") from error
            yield number, text


def read_chunks(path: str | Path) -> Iterator[str]:
    """The text of a UTF-8 file, plain or gzipped, piece by piece.

    Raises:
        DataError: The file cannot be opened or unpacked, or is not UTF-8.
    """
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    count = 0
    with _reading(path, lambda: f", after byte {count}" if count else "") as file:
        while True:
            chunk = file.read(CHUNK_BYTES)
            try:
                text = decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                raise DataError(f"{path}, about byte {count}: not UTF-8 ({error.reason})") from error
            if text:
                yield text
            if not chunk:
                return
            count += len(chunk)


def first_letter(path: str | Path) -> str:
    """The first letter of a text file that is no space, if it is ASCII; nothing where there is none.

    Raises:
        DataError: The file cannot be opened or unpacked.
    """
    with _reading(path, lambda: "") as file:
        while chunk := file.read(CHUNK_BYTES):
            rest = chunk.removeprefix(codecs.BOM_UTF8).lstrip()
            if rest:
                return rest[:1].decode("ascii", "replace")
    return ""


@contextmanager
def _reading(path: str | Path, place: Callable[[], str]) -> Iterator[IO[bytes]]:
    """A file, unpacked; what goes wrong is told with the place that was reached."""
    path = Path(path)
    try:
        with path.open("rb") as file:
            yield cast("IO[bytes]", gzip.GzipFile(fileobj=file)) if path.suffix == ".gz" else file
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist") from error
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}{place()}: cannot be read: {error}") from error


def short(value: Any) -> str:
    """A value in ASCII and at most about 60 characters, for errors."""
    text = value if isinstance(value, str) else repr(value)
    return ascii(text if len(text) <= 60 else text[:57] + "...")
