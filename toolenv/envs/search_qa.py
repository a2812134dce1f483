"""Search, then answer: questions that need one, two or three passages of an encyclopaedia."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from toolenv.env import ToolEnv
from toolenv.envs.open_tool import OpenTool
from toolenv.envs.search_source import Settings, is_url, search_tool
from toolenv.envs.search_tool import MAX_OBSERVATION_CHARS, TOP_K, SearchTool
from toolenv.episode import Task, TaskSet
from toolenv.errors import ConfigError, DataError
from toolenv.formats import Format
from toolenv.messages import ToolCall
from toolenv.retrieval.base import Passage, Retriever
from toolenv.tools import Tool
from toolenv.vector import vector_entry_point

if TYPE_CHECKING:
    from toolenv.data.world.wording import Wording
    from toolenv.data.world.world import Split

__all__ = ["OpenTool", "SearchQAEnv", "SearchTool", "make_vec"]


class SearchQAEnv(ToolEnv):
    """Answer a question with the help of a search.

    What is asked comes from ``dataset``; what is searched from one of ``corpus``, ``index`` and ``retriever``. With
    none of them both are the bundled encyclopaedia's.

    Where a file of questions marks the paragraphs that hold the answers, and the corpus has the same paragraphs, the
    tasks get them as gold passages; over another corpus they have none, so that rewards for gold passages have no
    opinion.

    Args:
        tasks: The same as ``dataset``, under the name that all environments share.
        split: Split of the bundled questions: ``"train"``, ``"validation"`` or ``"test"``.
        hops: How many passages a bundled question may need: one or several of 1, 2 and 3.
        corpus: What is searched: passages, a path (see ``read_corpus``), the name of a corpus that was fetched, such as
            ``"wikipedia-2006"``, or ``None`` for the bundled encyclopaedia. With ``index``: what it must be of.
        retriever: ``"faiss"`` (also where none is given), ``"bm25"`` or ``"hybrid"``; the URL of a server that speaks
            Search-R1's protocol; a ``Retriever``; or a ``SearchTool``, which several environments may share, so that
            their queries go in one search.
        dataset: What may be asked: tasks; a file of questions (see ``load_questions``: NQ, TriviaQA, PopQA, HotpotQA,
            2WikiMultihopQA, MuSiQue, Bamboogle, SQuAD, Search-R1's, or your own JSONL); or ``None`` for questions on
            the bundled encyclopaedia.
        index: An index that was built: its folder or its name (see ``open_index``). It is searched as it was built; or
            by its vectors or its words alone, with the ``retriever`` ``"faiss"`` or ``"bm25"``.
        top_k: Passages a query.
        max_queries: Most queries that one call of ``search`` may make; above 1 the model may give a list.
        max_observation_chars: A longer result of a query is cut; its head is kept.
        max_observation_tokens: The same limit in tokens of the policy, in place of the one in characters.
        tokenizer: The policy's tokenizer, for ``max_observation_tokens``: an object, a folder or a name.
        open_tool: Whether the model may also read articles on, with ``open(title, start)``.
        wording: Which sentence templates the bundled articles and questions are written with: ``"all"``, ``"seen"`` or
            ``"held_out"``. What learns from one of the last two can be tried on sentences that it never met.
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
        retriever: str | Retriever | SearchTool | None = None,
        *,
        dataset: Sequence[Task] | str | Path | None = None,
        index: str | Path | None = None,
        top_k: int = TOP_K,
        max_queries: int = 1,
        max_observation_chars: int = MAX_OBSERVATION_CHARS,
        max_observation_tokens: int | None = None,
        tokenizer: Any = None,
        open_tool: bool = False,
        wording: Wording = "all",
        format: str | Format = "hermes",
        **kwargs: Any,
    ) -> None:
        if tasks is not None and dataset is not None:
            raise ConfigError("tasks and dataset are two names for one thing; give one of them")
        asked = dataset if dataset is not None else tasks
        if isinstance(asked, str | Path) and not Path(asked).exists():  # before a corpus is indexed, which takes long
            raise DataError(f"{asked} does not exist")
        elsewhere = corpus is not None or index is not None or (isinstance(retriever, str) and is_url(retriever))
        if wording != "all" and (elsewhere or not isinstance(retriever, str | None)) and asked is not None:
            raise ConfigError(
                f"wording={wording!r} has nothing to word: neither questions nor articles are the bundled"
            )
        settings = Settings(top_k, max_observation_chars, max_queries, max_observation_tokens, tokenizer)
        search = search_tool(retriever, corpus, index, settings, wording)
        tools: list[Tool] = [search, *([OpenTool(search.retriever, search.limit)] if open_tool else [])]
        if asked is None:
            chosen = (hops,) if isinstance(hops, int) else hops
            loaded: Sequence[Task] = _bundled_tasks(split, tuple(sorted(set(chosen))), not elsewhere, wording)
        else:
            loaded = _load(asked, search.retriever)
        super().__init__(loaded, tools, format=format, **kwargs)
        self._check_options_can_be_used(search)

    def example_actions(self) -> tuple[str, ...]:
        """As for every environment, and a search for several queries where that is allowed."""
        several = [self.format.write_call(_SEVERAL)] if getattr(self.tools["search"], "max_queries", 1) > 1 else []
        return (*super().example_actions(), *several)

    def _check_options_can_be_used(self, search: SearchTool) -> None:
        """Refuse options that the format gives the model no way to use."""
        wanted = {"max_queries above 1": _SEVERAL} if search.max_queries > 1 else {}
        wanted |= {"open_tool": _OPEN} if "open" in self.tools else {}
        for option, call in wanted.items():
            if self.format.parse(self.format.write_call(call)).calls != (call,):
                raise ConfigError(
                    f"format {self.format.name!r} has no way to use {option}; choose 'hermes' or 'toolrl'"
                )


make_vec = vector_entry_point(SearchQAEnv)
"""What ``gym.make_vec`` calls for ``ToolSearchQA-v0``."""

_SEVERAL = ToolCall("search", {"queries": ["Lyon", "the Rhone"]})
_OPEN = ToolCall("open", {"title": "Lyon", "start": 2})


def _load(asked: Sequence[Task] | str | Path, retriever: Any) -> Sequence[Task]:
    if not isinstance(asked, str | Path):
        return asked
    path = Path(asked).absolute()
    try:
        status = path.stat()
        hash(retriever)
    except (OSError, TypeError):  # reading says what is wrong with the file
        return _read(path, retriever)
    return _read_once(path, (status.st_mtime_ns, status.st_size), retriever)


def _read(path: Path, retriever: Retriever) -> TaskSet:
    from toolenv.data.qa import load_questions, tasks_over

    return tasks_over(load_questions(path), retriever)


@lru_cache(maxsize=4)
def _read_once(path: Path, version: tuple[int, int], retriever: Any) -> TaskSet:
    """Environments that are made one by one read a file once, until it changes."""
    return _read(path, retriever)


@lru_cache(maxsize=8)
def _bundled_tasks(split: Split, hops: tuple[int, ...], over_their_corpus: bool, wording: Wording) -> TaskSet:
    """The bundled questions; over another corpus than theirs without gold passages, which it does not have."""
    from toolenv.data.world import questions

    tasks = questions(split, hops=hops, wording=wording)
    if over_their_corpus:
        return tasks
    return TaskSet((replace(task, gold_passages=()) for task in tasks), tasks.name)
