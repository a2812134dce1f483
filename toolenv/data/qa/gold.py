"""Gold passages: where the paragraphs that a file of questions marks stand in a corpus."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from toolenv.data.qa.files import Questions
from toolenv.episode import Task, TaskSet
from toolenv.retrieval.base import Passage, Retriever
from toolenv.retrieval.titles import TitledPassages, titled_passages


def tasks_over(questions: Questions, retriever: Retriever) -> TaskSet:
    """The tasks, with those gold passages that the retriever has.

    A marked paragraph is the passage with its text and its title or its id. A task of which one is not found has none:
    over another corpus, rewards for gold passages have no opinion, and nobody is charged with what cannot be found. A
    retriever whose passages are elsewhere, such as a server's, has none.

    Args:
        questions: What was read.
        retriever: What is searched.

    Example:
        >>> from toolenv.retrieval import make_retriever
        >>> lyon = Passage("Lyon", "Lyon", "On the Rhone.")
        >>> task = Task(id="t", prompt="On which river is Lyon?", answers=("Rhone",), gold_passages=(("Lyon",),))
        >>> questions = Questions("HotpotQA", TaskSet([task]), {"Lyon": lyon}, {})
        >>> over = make_retriever("bm25", [Passage("7-1", "Lyon", "On the Rhone."), Passage("8-1", "Paris", "Big.")])
        >>> tasks_over(questions, over)[0].gold_passages
        (('7-1',),)
    """
    if not questions.gold:
        return questions.tasks
    corpus = titled_passages(retriever)
    ids: dict[str, str | None] = {}
    return TaskSet((_over(task, questions.gold, corpus, ids) for task in questions.tasks), questions.tasks.name)


def _over(task: Task, gold: Mapping[str, Passage], corpus: TitledPassages | None, ids: dict[str, str | None]) -> Task:
    hops = []
    for hop in task.gold_passages:
        for id in hop:
            if id not in ids:
                ids[id] = _find(gold[id], corpus) if corpus is not None else None
        hops.append(tuple(found for id in hop if (found := ids[id]) is not None))
    if task.gold_passages and all(hops):
        return replace(task, gold_passages=tuple(hops))
    return replace(task, gold_passages=())


def _find(paragraph: Passage, corpus: TitledPassages) -> str | None:
    """Id of the passage that is this paragraph: the one with its id, or else with its title, if the texts agree."""
    try:
        rows: Sequence[int] = [corpus.row_of(paragraph.id)]
    except KeyError:
        rows = ()
    by_title = corpus.rows_of_title(paragraph.title) if paragraph.title else ()
    text = paragraph.text.split()
    for row in [*rows, *by_title]:
        passage = corpus[int(row)]
        if passage.text.split() == text:
            return passage.id
    return None
