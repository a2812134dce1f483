"""Search, then answer: questions that need one, two or three passages of an encyclopaedia."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from toolenv.data.jsonl import load_tasks
from toolenv.env import ToolEnv
from toolenv.episode import Task, TaskSet
from toolenv.errors import ConfigError, ToolError
from toolenv.formats import Format
from toolenv.retrieval import corpus_retriever, default_retriever, make_retriever
from toolenv.retrieval.base import Passage, Retriever, check_k, clean_text
from toolenv.tools import ToolOutput
from toolenv.vector import vector_entry_point

if TYPE_CHECKING:
    from toolenv.data.world.world import Split

MAX_QUERY_CHARS = 2_000
TOP_K = 3
MAX_OBSERVATION_CHARS = 2_000


SCHEMA: Mapping[str, Any] = {
    "name": "search",
    "description": "Search an encyclopaedia and read the passages that fit best.",
    "parameters": {
        "type": "object",
        "properties": {
            "query": {"type": "string", "description": "What to look for, in a few words or as a question."},
        },
        "required": ["query"],
    },
}


class SearchTool:
    """The tool ``search``: one search of the retriever for all calls of a step.

    A result has one line a passage, ``Doc 1(Title: "Lyon") Lyon is ...``, as Search-R1 writes them. Its data holds the
    ids of the passages that the model was shown at least in part: ``{"passages": [...]}``.

    Args:
        retriever: Where to search.
        top_k: Passages a query.
        max_observation_chars: A longer result is cut; its head is kept.

    Raises:
        ConfigError: A limit below 1.

    Source:
        PeterGriffinJin/Search-R1, ``search_r1/llm_agent/generation.py``.

    Example:
        >>> corpus = [Passage("a", "Lyon", "A city on the Rhone."), Passage("b", "Paris", "A city on the Seine.")]
        >>> SearchTool(make_retriever("bm25", corpus), top_k=1)(query="the Rhone").content
        'Doc 1(Title: "Lyon") A city on the Rhone.'
    """

    name = "search"
    schema = SCHEMA

    def __init__(
        self, retriever: Retriever, top_k: int = TOP_K, max_observation_chars: int = MAX_OBSERVATION_CHARS
    ) -> None:
        check_k(top_k)
        if max_observation_chars < 1:
            raise ConfigError(f"max_observation_chars must be at least 1, not {max_observation_chars!r}")
        self.retriever = retriever
        self.top_k = top_k
        self.max_observation_chars = max_observation_chars

    def __call__(self, **arguments: Any) -> ToolOutput:
        """Search for the argument ``query``.

        Raises:
            ToolError: The query is blank.
            RetrieverError: The retriever could not answer.
        """
        output = self.batch([arguments])[0]
        if isinstance(output, ToolError):
            raise output
        return output

    def batch(self, arguments: Sequence[Mapping[str, Any]]) -> list[ToolOutput | ToolError]:
        """Search for all queries at once; a blank one gets a ``ToolError`` in its place.

        Raises:
            RetrieverError: The retriever could not answer.
        """
        queries = [clean_text(a["query"], MAX_QUERY_CHARS).strip() for a in arguments]
        asked = [query for query in queries if query]
        found = iter(self.retriever.search(asked, self.top_k) if asked else ())
        return [self._render(next(found)) if query else ToolError(_BLANK) for query in queries]

    def _render(self, passages: Sequence[Passage]) -> ToolOutput:
        if not passages:
            return ToolOutput("No passage was found; try other words.", {"passages": []})
        text, shown = "", []
        for number, passage in enumerate(passages, start=1):
            if len(text) < self.max_observation_chars:
                shown.append(passage.id)
                text += f'Doc {number}(Title: "{passage.title}") {passage.text}\n'
        return ToolOutput(text[: self.max_observation_chars].rstrip(), {"passages": shown})

    def __deepcopy__(self, memo: dict[int, Any]) -> SearchTool:
        # Reading env.spec deep-copies constructor arguments, and copies would no longer share a search.
        return self

    def __repr__(self) -> str:
        return f"SearchTool({self.retriever!r}, top_k={self.top_k})"


_BLANK = "the query is blank; say in a few words what to look for"


class SearchQAEnv(ToolEnv):
    """Answer a question with the help of a search.

    Args:
        tasks: What may be asked: tasks, a path to a question file (see ``load_tasks``), or ``None`` for questions on
            the bundled encyclopaedia.
        split: Split of the bundled questions: ``"train"``, ``"validation"`` or ``"test"``.
        hops: How many passages a bundled question may need: one or several of 1, 2 and 3.
        corpus: What is searched: passages, a path (see ``read_corpus``), the name of a corpus that was fetched, such as
            ``"wikipedia-2006"``, or ``None`` for the bundled encyclopaedia.
        retriever: ``"faiss"``, ``"bm25"``, ``"hybrid"``, or a ``Retriever``; or a ``SearchTool``, which several
            environments may share, so that their queries go in one search.
        top_k: Passages a query.
        max_observation_chars: A longer result is cut; its head is kept.
        format: How the model speaks.
        **kwargs: As for ``ToolEnv``.

    Raises:
        ConfigError: Settings that do not fit together.
        DataError: A question or corpus file that cannot be read.
        MissingExtraError: What the retriever needs is not installed.

    Example:
        >>> corpus = [Passage("a", "Lyon", "A city on the Rhone."), Passage("b", "Paris", "A city on the Seine.")]
        >>> task = Task(id="t", prompt="On which river is Lyon?", answers=("Rhone",), gold_passages=(("a",),))
        >>> env = SearchQAEnv([task], corpus=corpus, retriever="bm25", format="search_r1")
        >>> _ = env.reset(seed=0)
        >>> env.step("<search>Lyon</search>")[0][-1].content.strip()
        '<information>Doc 1(Title: "Lyon") A city on the Rhone.</information>'
        >>> env.step("<answer>Rhone</answer>")[2]
        True
    """

    instruction: ClassVar[str] = (
        "Answer the user's question. Look up what you need with the search function, one fact at a time: a question "
        "may need several searches, each of which builds on the one before. When you know the answer, give it as "
        "briefly as you can: a name, a number or a few words."
    )

    def __init__(
        self,
        tasks: Sequence[Task] | str | Path | None = None,
        split: Split = "train",
        hops: int | Sequence[int] = (1, 2, 3),
        corpus: Iterable[Passage] | str | Path | None = None,
        retriever: str | Retriever | SearchTool = "faiss",
        *,
        top_k: int = TOP_K,
        max_observation_chars: int = MAX_OBSERVATION_CHARS,
        format: str | Format = "hermes",
        **kwargs: Any,
    ) -> None:
        tool = _search_tool(retriever, corpus, top_k, max_observation_chars)
        super().__init__(
            _load(tasks, split, (hops,) if isinstance(hops, int) else hops), [tool], format=format, **kwargs
        )


make_vec = vector_entry_point(SearchQAEnv)


def _load(tasks: Sequence[Task] | str | Path | None, split: Split, hops: Sequence[int]) -> Sequence[Task]:
    if tasks is None:
        return _bundled_tasks(split, tuple(sorted(set(hops))))
    return load_tasks(tasks) if isinstance(tasks, str | Path) else tasks


@lru_cache(maxsize=8)
def _bundled_tasks(split: Split, hops: tuple[int, ...]) -> TaskSet:
    from toolenv.data.world import questions

    return questions(split, hops=hops)


def _search_tool(
    retriever: str | Retriever | SearchTool,
    corpus: Iterable[Passage] | str | Path | None,
    top_k: int,
    max_observation_chars: int,
) -> SearchTool:
    if not isinstance(retriever, str):
        if corpus is not None:
            raise ConfigError(f"give a corpus or a retriever that has one, not both; got the retriever {retriever!r}")
        if isinstance(retriever, SearchTool):
            return retriever
        return SearchTool(retriever, top_k, max_observation_chars)
    if corpus is None:
        return _bundled_tool(retriever, top_k, max_observation_chars)
    if isinstance(corpus, str | Path):
        return SearchTool(corpus_retriever(retriever, corpus), top_k, max_observation_chars)
    return SearchTool(make_retriever(retriever, tuple(corpus)), top_k, max_observation_chars)


@lru_cache(maxsize=32)
def _bundled_tool(retriever: str, top_k: int, max_observation_chars: int) -> SearchTool:
    """The tool over the bundled encyclopaedia: one for the whole process, so that any environments share a search."""
    return SearchTool(default_retriever(retriever), top_k, max_observation_chars)
