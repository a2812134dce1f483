"""Searching in a process that was forked from one that had searched before."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache, partial


@cache
def one_thread_after_fork(set_threads: Callable[[int], object]) -> None:
    """Have a library compute on one thread in processes that are forked from this one.

    A fork takes none of OpenMP's threads along. GNU's OpenMP does not see that, and waits for them for ever as soon as
    the child computes on more than one, as where ``AsyncVectorEnv`` forks after a search.

    Args:
        set_threads: The library's own setting, such as ``torch.set_num_threads``.
    """
    os.register_at_fork(after_in_child=partial(set_threads, 1))
