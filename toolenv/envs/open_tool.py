"""The tool ``open``: reads an article on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from toolenv.envs.limits import CharLimit, Limit
from toolenv.envs.search_tool import MAX_OBSERVATION_CHARS
from toolenv.errors import ConfigError, ToolError
from toolenv.retrieval.base import Passage, Retriever, clean_text
from toolenv.retrieval.titles import article, titled_passages
from toolenv.tools import ToolOutput

MAX_TITLE_CHARS = 300
WINDOW_CHARS = 20_000  # of a passage, from which a part is cut: a limit in tokens reads all that it is given
_LARGE = (8888, 8888, 9999)  # as long as the numbers of a page get
NEAR = 10  # passages that are searched for the titles of others

SCHEMA: Mapping[str, Any] = {
    "name": "open",
    "description": "Read an article of the encyclopaedia from its beginning, or from one of its passages on.",
    "parameters": {
        "type": "object",
        "properties": {
            "title": {"type": "string", "description": "Title of the article, as search shows it."},
            "start": {"type": "integer", "description": "Number of the passage to begin with; the first is 1."},
        },
        "required": ["title"],
    },
}


class OpenTool:
    """The tool ``open``: the passages of the article with a title, as many as fit, from passage ``start`` on.

    The first line says which passages these are and where to read on. A passage that is longer than a page counts as
    several, cut between words. Nothing is kept between calls. A title that no article has is told to the model with the
    titles of what a search for it finds. The data is that of ``SearchTool``.

    Args:
        retriever: Where the articles are; it must have its passages at hand.
        limit: How long a result may be.

    Raises:
        ConfigError: The retriever does not have its passages at hand: a server does not.

    Example:
        >>> from toolenv.retrieval import make_retriever
        >>> texts = ("A city.", "It has two rivers, the Rhone and the Saone.")
        >>> lyon = [Passage(f"1-{number}", "Lyon", text) for number, text in enumerate(texts, start=1)]
        >>> tool = OpenTool(make_retriever("bm25", lyon), CharLimit(85))
        >>> print(tool(title="Lyon").content)
        Article "Lyon", passages 1 to 1 of 2; read on with start 2.
        A city.
        >>> print(tool(title="Lyon", start=2).content)
        Article "Lyon", passages 2 to 2 of 2.
        It has two rivers, the Rhone and the Saone.
    """

    name = "open"
    schema = SCHEMA

    def __init__(self, retriever: Retriever, limit: Limit | None = None) -> None:
        passages = titled_passages(retriever)
        if passages is None:
            raise ConfigError(
                f"open_tool needs a retriever that has its passages here, by title; {retriever!r} has not: "
                "give a corpus or an index"
            )
        self.retriever = retriever
        self.passages = passages
        self.limit = limit if limit is not None else CharLimit(MAX_OBSERVATION_CHARS)

    def __call__(self, **arguments: Any) -> ToolOutput:
        """Read the article ``title`` from passage ``start`` on.

        Raises:
            ToolError: No article has that title, or it has no such passage.
            RetrieverError: The passages cannot be read, or titles that are near could not be searched for.
        """
        output = self.batch([arguments])[0]
        if isinstance(output, ToolError):
            raise output
        return output

    def batch(self, arguments: Sequence[Mapping[str, Any]]) -> list[ToolOutput | ToolError]:
        """Read for all calls; titles that are near to unknown ones are searched for at once.

        Raises:
            RetrieverError: The passages cannot be read, or titles that are near could not be searched for.
        """
        titles = [_title(a["title"]) for a in arguments]
        articles = [article(self.passages, title) if title else [] for title in titles]
        unknown = [title for title, found in zip(titles, articles, strict=True) if title and not found]
        near = iter(self.retriever.search(unknown, NEAR) if unknown else ())
        outputs: list[ToolOutput | ToolError] = []
        for title, found, a in zip(titles, articles, arguments, strict=True):
            if found:
                outputs.append(self._page(found, a.get("start")))
            elif title:
                outputs.append(_unknown(title, next(near)))
            else:
                outputs.append(ToolError("the title is blank; give the title of an article, as search shows it"))
        return outputs

    def _page(self, article: Sequence[Passage], start: float | None) -> ToolOutput | ToolError:
        passages = article
        if not all(self._fits(_text(article, number, number)) for number in range(1, len(article) + 1)):
            passages = [part for passage in article for part in self._parts(passage)]
        first = 1 if start is None else int(start)
        if not 1 <= first <= len(passages):
            whole = f"{len(passages)} passages" if len(passages) > 1 else "1 passage"
            return ToolError(f"the article has {whole}; start must be from 1 to {len(passages)}")
        last = first
        while last < len(passages) and self._fits(_text(passages, first, last + 1)):
            last += 1
        page = _text(passages, first, last)
        shown = dict.fromkeys(passage.id for passage in passages[first - 1 : last])
        return ToolOutput(self.limit.cut(page), {"passages": list(shown)})

    def _parts(self, passage: Passage) -> Iterator[Passage]:
        """The passage, in parts that each fit on a page; as it is where a page has no room for any of it."""
        head = _head(passage.title, *_LARGE) + "\n"
        text = clean_text(passage.text, len(passage.text))
        start = 0
        while len(text) - start > WINDOW_CHARS or not self._fits(head + text[start:]):
            part = self.limit.cut(head + text[start : start + WINDOW_CHARS])[len(head) :]
            if not part:
                break
            after = start + len(part)
            if not text[after : after + 1].isspace():  # not within a word, if there is another way
                part = part[: max(part.rfind(" "), part.rfind("\n"), 0)] or part
            yield replace(passage, text=part)
            start += len(part)
            blank = text[start : start + WINDOW_CHARS]
            start += len(blank) - len(blank.lstrip())
        if start < len(text) or not start:
            yield replace(passage, text=text[start:])

    def _fits(self, page: str) -> bool:
        return self.limit.cut(page) == page

    def __deepcopy__(self, memo: dict[int, Any]) -> OpenTool:
        return self

    def __repr__(self) -> str:
        return f"OpenTool({self.retriever!r})"


def _title(text: str) -> str:
    """A title as the model wrote it, without the quotes in which search shows it."""
    title = clean_text(text, MAX_TITLE_CHARS).strip()
    quoted = len(title) > 2 and title[0] == title[-1] == '"'
    return title[1:-1].strip() if quoted else title


def _text(passages: Sequence[Passage], first: int, last: int) -> str:
    """The passages numbered ``first`` to ``last``, below a line that says so."""
    head = _head(passages[0].title, first, last, len(passages))
    text = "\n".join([head, *(passage.text for passage in passages[first - 1 : last])])
    return clean_text(text, len(text))


def _head(title: str, first: int, last: int, of: int) -> str:
    more = f"; read on with start {last + 1}" if last < of else ""
    return clean_text(f'Article "{title}", passages {first} to {last} of {of}{more}.', len(title) + 200)


def _unknown(title: str, found: Sequence[Passage]) -> ToolError:
    near = list(dict.fromkeys(passage.title for passage in found if passage.title))[:3]
    hint = f"; near it are: {', '.join(near)}" if near else ""
    return ToolError(f"no article is called {_short(title)!r}{hint}")


def _short(text: str) -> str:
    return text if len(text) <= 80 else text[:77] + "..."
