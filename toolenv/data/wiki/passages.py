"""Articles cut into passages of a hundred words."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence

from toolenv.data.wiki.dump import WikiPage
from toolenv.retrieval.base import Passage

WORDS = 100
"""Words of a passage."""
SHORTEST = 10
"""An article with fewer words is left out, and a rest with fewer joins the passage before it."""

_LIST = re.compile(r"lists? of |index of |outline of |table of ", re.IGNORECASE)
_POINTS_ON = re.compile(
    r"\{\{\s*(?:template:)?(?:[a-z0-9 _-]*disambig[a-z _-]*|disamb|dab|hndis|geodis|hospitaldis|mathdab"
    r"|set index article|surname|given name|soft ?redirect)\s*(?:\||\}\})",
    re.IGNORECASE,
)


def is_article(page: WikiPage) -> bool:
    """Whether a page holds prose: no redirect, no list, no page that tells titles apart, nothing but an article.

    Example:
        >>> [is_article(WikiPage("1", title, 0, "", False)) for title in ("Lyon", "List of cities")]
        [True, False]
    """
    if page.namespace != 0 or page.redirect or page.title == "Main Page":
        return False
    if _LIST.match(page.title) or page.title.endswith("(disambiguation)"):
        return False
    return not _POINTS_ON.search(page.text)


def cut(id: str, title: str, lines: Sequence[str], words: int = WORDS) -> Iterator[Passage]:
    """Cut an article into passages that do not overlap, as DPR does, without regard to sentences.

    A passage's id is the article's, and its number in it, from 1; in the order of the ids an article reads on.

    Args:
        id: Id of the article.
        title: Its title, which every passage has.
        lines: Its text.
        words: Words a passage; the last one of an article may have fewer, or up to 9 more.

    Example:
        >>> [p.text for p in cut("7", "Lyon", ["one " * 12, "two " * 13], words=12)]  # doctest: +ELLIPSIS
        ['one one ... one', 'two two ... two']
        >>> [p.id for p in cut("7", "Lyon", ["one " * 30], words=12)]
        ['7-0001', '7-0002']
    """
    all_words = " ".join(lines).split()
    if len(all_words) < SHORTEST:
        return
    starts = list(range(0, len(all_words), words))
    if len(starts) > 1 and len(all_words) - starts[-1] < SHORTEST:
        starts.pop()
    for number, (start, end) in enumerate(zip(starts, [*starts[1:], len(all_words)], strict=True), start=1):
        yield Passage(f"{id}-{number:04d}", title, " ".join(all_words[start:end]))


def to_json(passage: Passage) -> str:
    r"""A passage as a line of a corpus file.

    Example:
        >>> to_json(Passage("7-0001", "Lyon", "Café"))
        '{"id": "7-0001", "title": "Lyon", "text": "Café"}\n'
    """
    record = {"id": passage.id, "title": passage.title, "text": passage.text}
    return json.dumps(record, ensure_ascii=False) + "\n"
