"""The tool ``search``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from toolenv.env import is_count
from toolenv.envs.limits import make_limit
from toolenv.errors import ConfigError, RetrieverError, ToolError
from toolenv.retrieval.base import Passage, Retriever, check_k, clean_text
from toolenv.tools import ToolOutput

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

_BLANK = "the query is blank; say in a few words what to look for"
_NOTHING = "No passage was found; try other words."


class SearchTool:
    """The tool ``search``: one search of the retriever for all calls of a step.

    A result has one line a passage, ``Doc 1(Title: "Lyon") Lyon is ...``, as Search-R1 writes them. Its data holds the
    ids of the passages that the model was shown at least in part: ``{"passages": [...]}``.

    With ``max_queries`` above 1 a call may have ``queries``, a list, in place of ``query``. Their results stand one
    after the other, below lines ``Query 1:``; a query that comes twice is searched once. The queries' own words are
    not repeated: what stands in a result is never the model's.

    Args:
        retriever: Where to search.
        top_k: Passages a query.
        max_observation_chars: A longer result of a query is cut; its head is kept.
        max_queries: Most queries in one call. 1: the schema knows ``query`` alone.
        max_observation_tokens: The same limit in tokens, in place of the one in characters.
        tokenizer: Whose tokens: a tokenizer of transformers, or the folder or name of one.

    Raises:
        ConfigError: A limit below 1, or tokens without a tokenizer.

    Source:
        PeterGriffinJin/Search-R1, ``search_r1/llm_agent/generation.py``.

    Example:
        >>> from toolenv.retrieval import make_retriever
        >>> corpus = [Passage("a", "Lyon", "A city on the Rhone."), Passage("b", "Paris", "A city on the Seine.")]
        >>> tool = SearchTool(make_retriever("bm25", corpus), top_k=1, max_queries=2)
        >>> tool(query="the Rhone").content
        'Doc 1(Title: "Lyon") A city on the Rhone.'
        >>> print(tool(queries=["Rhone", "Seine"]).content)
        Query 1:
        Doc 1(Title: "Lyon") A city on the Rhone.
        <BLANKLINE>
        Query 2:
        Doc 1(Title: "Paris") A city on the Seine.
    """

    name = "search"

    def __init__(
        self,
        retriever: Retriever,
        top_k: int = TOP_K,
        max_observation_chars: int = MAX_OBSERVATION_CHARS,
        *,
        max_queries: int = 1,
        max_observation_tokens: int | None = None,
        tokenizer: Any = None,
    ) -> None:
        check_k(top_k)
        if not is_count(max_queries):
            raise ConfigError(f"max_queries must be a whole number of at least 1, not {max_queries!r}")
        self.limit = make_limit(max_observation_chars, max_observation_tokens, tokenizer)
        self.retriever = retriever
        self.top_k = top_k
        self.max_observation_chars = max_observation_chars
        self.max_observation_tokens = max_observation_tokens
        self.tokenizer = tokenizer
        self.max_queries = max_queries
        self.schema: Mapping[str, Any] = SCHEMA if max_queries == 1 else _schema_of_several(max_queries)

    def __call__(self, **arguments: Any) -> ToolOutput:
        """Search for the argument ``query``, or for each of ``queries``.

        Raises:
            ToolError: A query is blank, or there are too many or none.
            RetrieverError: The retriever could not answer.
        """
        output = self.batch([arguments])[0]
        if isinstance(output, ToolError):
            raise output
        return output

    def batch(self, arguments: Sequence[Mapping[str, Any]]) -> list[ToolOutput | ToolError]:
        """Search for all queries of all calls at once; a call that asks badly gets a ``ToolError`` in its place.

        Raises:
            RetrieverError: The retriever could not answer.
        """
        asked = [self._queries(a) for a in arguments]
        flat = [query for queries in asked if not isinstance(queries, ToolError) for query in queries]
        lists = self.retriever.search(flat, self.top_k) if flat else []
        if len(lists) != len(flat):
            raise RetrieverError(f"the retriever gave {len(lists)} lists of passages for {len(flat)} queries")
        found = iter(lists)
        return [
            queries
            if isinstance(queries, ToolError)
            else self._result({query: next(found)[: self.top_k] for query in queries}, a)
            for queries, a in zip(asked, arguments, strict=True)
        ]

    def _queries(self, arguments: Mapping[str, Any]) -> list[str] | ToolError:
        """What a call asks, each query once; or what is wrong with it."""
        several = arguments.get("queries")
        if (several is None) == (arguments.get("query") is None):
            return ToolError("give either 'query', a text, or 'queries', a list of texts")
        asked = [arguments["query"]] if several is None else several
        if len(asked) > self.max_queries:
            return ToolError(f"the call has {len(asked)} queries; at most {self.max_queries} are searched in one call")
        if not asked:
            return ToolError("'queries' is empty; give at least one query")
        queries = _cleaned(asked)
        if "" in queries:
            return ToolError(_BLANK if several is None else f"query {queries.index('') + 1}: {_BLANK}")
        return list(dict.fromkeys(queries))

    def _result(self, found: Mapping[str, Sequence[Passage]], arguments: Mapping[str, Any]) -> ToolOutput:
        if arguments.get("queries") is None:
            content, shown = self._render(next(iter(found.values())))
            return ToolOutput(content, {"passages": shown})
        places: dict[str, list[str]] = {}
        for number, query in enumerate(_cleaned(arguments["queries"]), start=1):
            places.setdefault(query, []).append(str(number))
        rendered = {query: self._render(passages) for query, passages in found.items()}
        groups = [f"Query {', '.join(places[query])}:\n{content}" for query, (content, _) in rendered.items()]
        return ToolOutput("\n\n".join(groups), {"passages": [id for _, shown in rendered.values() for id in shown]})

    def _render(self, passages: Sequence[Passage]) -> tuple[str, list[str]]:
        """The text of a query's passages, within the limit, and the ids of those that it shows."""
        if not passages:
            return _NOTHING, []
        text, starts = "", []
        for number, passage in enumerate(passages, start=1):
            starts.append(len(text))
            text += f'Doc {number}(Title: "{passage.title}") {passage.text}\n'
        head = self.limit.cut(clean_text(text, len(text)).rstrip()).rstrip()
        return head, [passage.id for passage, start in zip(passages, starts, strict=True) if start < len(head)]

    def __deepcopy__(self, memo: dict[int, Any]) -> SearchTool:
        # Reading env.spec deep-copies constructor arguments, and copies would no longer share a search.
        return self

    def __repr__(self) -> str:
        several = f", max_queries={self.max_queries}" if self.max_queries > 1 else ""
        return f"SearchTool({self.retriever!r}, top_k={self.top_k}{several})"


def _cleaned(queries: Sequence[str]) -> list[str]:
    return [clean_text(query, MAX_QUERY_CHARS).strip() for query in queries]


def _schema_of_several(max_queries: int) -> Mapping[str, Any]:
    query = SCHEMA["parameters"]["properties"]["query"]
    queries = {
        "type": "array",
        "items": {"type": "string"},
        "description": f"In place of query: up to {max_queries} queries, which are searched together.",
    }
    parameters = {"type": "object", "properties": {"query": query, "queries": queries}, "required": []}
    return {**SCHEMA, "parameters": parameters}
