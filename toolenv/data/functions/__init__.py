"""Bundled function-calling tasks, over functions and sentences written for this project."""

from __future__ import annotations

from functools import cache

from toolenv.data.functions.catalogue import functions
from toolenv.data.functions.files import read_function_tasks
from toolenv.data.functions.generate import CATEGORIES, make_task
from toolenv.data.functions.slots import SPLITS
from toolenv.episode import Task, TaskSet
from toolenv.errors import ConfigError
from toolenv.seeding import rng

__all__ = ["SIZES", "function_tasks", "functions", "read_function_tasks"]

SIZES = {"train": 400, "validation": 100, "test": 120}
"""Number of bundled tasks of each split."""


@cache
def function_tasks(split: str = "train", size: int | None = None, seed: int = 0) -> TaskSet:
    """Function-calling tasks of a split.

    No prompt stands in two splits, and no argument value but those of enumerations. ``metadata["category"]`` is
    ``single`` (one call), ``parallel`` (one function, several calls), ``multiple`` (several functions), ``sequential``
    (the second call needs the first one's result; ``metadata["steps"]`` groups the calls) or ``irrelevance`` (no
    offered function fits, so the right reply makes no call).

    Args:
        split: ``"train"``, ``"validation"`` or ``"test"``.
        size: How many; ``None``: 400, 100 and 120.
        seed: Another seed, other tasks of the same split.

    Raises:
        ConfigError: Another split, or a size below 1.

    Example:
        >>> tasks = function_tasks("test", size=5)
        >>> [task.metadata["category"] for task in tasks][:2]
        ['single', 'parallel']
    """
    if split not in SPLITS:
        raise ConfigError(f"split must be one of {', '.join(SPLITS)}; got {split!r}")
    size = SIZES[split] if size is None else size
    if size < 1:
        raise ConfigError(f"size must be at least 1; got {size!r}")
    tasks: list[Task] = []
    prompts: set[str] = set()
    attempt = 0
    categories = _categories(size)
    while len(tasks) < size:
        random = rng(seed, "function tasks", split, attempt)
        task = make_task(f"function-{split}-{seed}-{len(tasks):04d}", categories[len(tasks)], split, random)
        attempt += 1
        if task.prompt not in prompts:
            prompts.add(task.prompt)
            tasks.append(task)
    return TaskSet(tasks, name=f"functions/{split}")


def _categories(size: int) -> list[str]:
    """Categories in an even mixture: each next one is the one that is furthest behind its share."""
    made: list[str] = []
    counts = dict.fromkeys(CATEGORIES, 0)
    for total in range(1, size + 1):
        name = max(counts, key=lambda category: CATEGORIES[category] * total - counts[category])
        counts[name] += 1
        made.append(name)
    return made
