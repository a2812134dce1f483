"""Pages of a MediaWiki XML dump, read as a stream."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from xml.etree.ElementTree import Element, ParseError, XMLPullParser

from toolenv.errors import DataError

BLOCK_BYTES = 1 << 18
_OPENERS: dict[str, Callable[[Any], Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}


@dataclass(frozen=True, slots=True)
class WikiPage:
    """A page of a wiki.

    Attributes:
        id: The wiki's own number of the page.
        title: Title, with the name of the namespace where it is no article's.
        namespace: Number of the namespace; articles have 0.
        text: Wikitext of the last revision in the dump.
        redirect: Whether the page only leads to another.
    """

    id: str
    title: str
    namespace: int
    text: str
    redirect: bool


def read_dump(
    path: str | Path, *, cut_off: bool = False, progress: Callable[[int], None] | None = None
) -> Iterator[WikiPage]:
    """Read the pages of a dump, one at a time, in memory that does not grow with the dump.

    Args:
        path: An ``.xml`` file, or one with ``.bz2`` (of several streams, too), ``.gz`` or ``.xz``.
        cut_off: Whether the dump may end in the middle; its last page is then left out.
        progress: Told now and then how many bytes of the file were read.

    Raises:
        DataError: The file cannot be read or unpacked, is no dump, or ends in the middle.
    """
    path = Path(path)
    parser: XMLPullParser[Any] = XMLPullParser(("start", "end"))
    reader = _PageReader(path)
    with ExitStack() as opened:
        try:
            raw = opened.enter_context(path.open("rb"))
            opener = _OPENERS.get(path.suffix)
            file: Any = opened.enter_context(opener(raw)) if opener else raw
            while block := file.read1(BLOCK_BYTES):  # what there is, even where the rest cannot be unpacked
                parser.feed(block)
                yield from reader.pages(parser)
                if progress:
                    progress(raw.tell())
            parser.close()
            yield from reader.pages(parser)
        except FileNotFoundError as error:
            raise DataError(f"{path} does not exist") from error
        except (EOFError, ParseError) as error:
            if not (cut_off and _is_end(error) and reader.root is not None):
                raise DataError(f"{path}: {reader.place}: {_reason(error)}") from error
        except (OSError, zlib.error, lzma.LZMAError) as error:
            raise DataError(f"{path}: {reader.place}: cannot be read: {error}") from error
    if reader.root is None:
        raise DataError(f"{path}: {_NO_DUMP}")


_NO_DUMP = "is no MediaWiki XML dump, which starts with <mediawiki>"


def _is_end(error: Exception) -> bool:
    """Whether there was nothing wrong but that the file ends."""
    return isinstance(error, EOFError) or "no element found" in str(error) or "unclosed token" in str(error)


def _reason(error: Exception) -> str:
    if _is_end(error):
        return f"the file ends in the middle ({error}); download it again"
    return f"not well-formed XML: {error}"


class _PageReader:
    """Builds pages out of a parser's events, and throws away what was read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.root: Element | None = None
        self.namespaces: dict[str, int] = {}
        self.last_title: str | None = None
        self._text = ""

    @property
    def place(self) -> str:
        return f"after the page {self.last_title!r}" if self.last_title else "before its first page"

    def pages(self, parser: XMLPullParser[Any]) -> Iterator[WikiPage]:
        for event, element in cast("Iterator[tuple[str, Element]]", parser.read_events()):
            tag = element.tag.rpartition("}")[2]
            if self.root is None:
                if tag != "mediawiki":
                    raise DataError(f"{self.path}: {_NO_DUMP}; got <{tag}>")
                self.root = element
            elif event == "end":
                page = self._end(tag, element)
                if page is not None:
                    self.last_title = page.title
                    yield page

    def _end(self, tag: str, element: Element) -> WikiPage | None:
        assert self.root is not None
        match tag:
            case "namespace":
                self.namespaces[element.text or ""] = int(element.get("key", "0"))
            case "text":
                self._text = element.text or ""
                element.clear()
            case "revision":  # of a full history only the last one is kept
                element.clear()
            case "page":
                page = self._page(element)
                self._text = ""
                self.root.clear()
                return page
        return None

    def _page(self, element: Element) -> WikiPage:
        found = {child.tag.rpartition("}")[2]: child.text or "" for child in reversed(element)}
        title = found.get("title", "")
        prefix = title.partition(":")[0] if ":" in title else ""
        namespace = int(found["ns"]) if found.get("ns") else self.namespaces.get(prefix, 0)
        redirect = "redirect" in found or self._text.lstrip()[:9].upper() == "#REDIRECT"
        return WikiPage(found.get("id", ""), title, namespace, self._text, redirect)
