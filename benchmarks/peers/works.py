"""What the players share: what is played, the clock, and the words that go in and out.

Read by the interpreter of every peer, so it needs the standard library alone. A player calls ``play`` with one function
a work; each gets the job and gives a ``Pass``: something to do again and again, which checks what came of it.
"""

from __future__ import annotations

import json
import re
import string
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

QUESTION = "What is the capital of France?"
ANSWER = "Paris"
ACTION = f"<think> The capital of France is {ANSWER}. </think>\n<answer> {ANSWER} </answer>"
NUM_ENVS = 16
CYCLES = 50  # of the cheap works in a pass, so that reading the clock costs nothing

SEARCHES = 3  # of an episode, before its answer
TOP_K = 3

TURNS = 32
LOOK_UP = "Look up the entries of the register one by one, and say when you have read all of them."
ENTRY = " ".join(f"item {number} was weighed, measured and put on shelf {number * 7 % 31};" for number in range(12))
THOUGHT = "I have to go on with the next entry, since the one before did not say what was asked for."


@dataclass
class Pass:
    """Something that is done again and again.

    Attributes:
        run: Does it once; raises where the result is not right.
        units: How many units of work that is.
        close: Ends what was started.
        facts: What else is worth knowing, in words or numbers; read at the end.
    """

    run: Callable[[], None]
    units: int
    close: Callable[[], None] = lambda: None
    facts: dict[str, Any] = field(default_factory=dict)


def play(works: Mapping[str, Callable[[dict[str, Any]], Pass]]) -> None:
    """Do the job on standard input for as long as it says; prints the findings as the last line.

    The first pass is not timed: its time, with that of getting ready, is ``setup_s``.
    """
    job = json.load(sys.stdin)
    start = time.perf_counter()
    work = works[job["work"]](job)
    try:
        work.run()
        setup_s = time.perf_counter() - start
        passes, begun = 0, time.perf_counter()
        while (seconds := time.perf_counter() - begun) < job["at_least_s"] or not passes:
            work.run()
            passes += 1
        found = {"seconds": seconds / (passes * work.units), "units": passes * work.units, "setup_s": setup_s}
    finally:
        work.close()
    print("\n" + json.dumps({**found, "facts": work.facts}))


def check(right: bool, what: str) -> None:
    """Stop a measurement of broken work."""
    if not right:
        raise SystemExit(f"the work is not done right: {what}")


# The grader for frameworks that bring none: what the others do, which is what SQuAD does ---------------------------


def graded(action: str) -> float:
    """1.0 for the right answer in the last ``<answer>``, by exact match as SQuAD normalises."""
    found = re.findall(r"<answer>(.*?)</answer>", action, re.DOTALL)
    return float(bool(found) and normalised(found[-1]) == normalised(ANSWER))


def normalised(text: str) -> str:
    """Lower case without punctuation and articles."""
    text = "".join(character for character in text.lower() if character not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


# Python ----------------------------------------------------------------------------------------------------------


def program(number: int) -> tuple[str, str]:
    """A program for SymPy, another for each number, and what it prints."""
    roots = [number, number + 1, number + 2]
    product = " * ".join(f"(x - {root})" for root in roots)
    code = f'import sympy\nx = sympy.symbols("x")\nprint(sympy.solve(sympy.expand({product}), x))'
    return code, str(roots)


class Programs:
    """Counts through the programs; ``run`` gets a program's text and gives back what the model would be shown."""

    def __init__(self, run: Callable[[str], str]) -> None:
        self._run = run
        self._number = 0

    def __call__(self) -> None:
        """One call."""
        self._number += 1
        code, printed = program(self._number)
        shown = self._run(code)
        check(printed in shown, f"{printed} should stand in {shown!r}")


# History ---------------------------------------------------------------------------------------------------------


def long_action(turn: int) -> str:
    """What the model writes in a turn of the long episode."""
    return f'{THOUGHT}\n<tool_call>{{"name": "look_up", "arguments": {{"turn": {turn}}}}}</tool_call>'


def entry(turn: int) -> str:
    """What the tool of the long episode answers."""
    return f"Entry {turn}: {ENTRY}"


def shown_entry(turn: int) -> str:
    """The same as the model is shown it: our format does so by itself."""
    return f"<tool_response>\n{entry(turn)}\n</tool_response>"


class LongEpisode:
    """Plays the long episode, and notes how long each turn took.

    Args:
        reset: Begins an episode; returns the ids that the model is first shown.
        turn: Plays a turn; returns the ids that the model is shown next.
        facts: Gets the number of tokens at the end, and how much longer the last four turns took than the first four.
    """

    def __init__(self, reset: Callable[[], list[int]], turn: Callable[[int], list[int]], facts: dict[str, Any]) -> None:
        self._reset, self._turn, self._facts = reset, turn, facts
        self._seconds = [0.0] * TURNS

    def __call__(self) -> None:
        """One episode."""
        before = len(self._reset())
        for turn in range(TURNS):
            start = time.perf_counter()
            ids = self._turn(turn)
            self._seconds[turn] += time.perf_counter() - start
            check(len(ids) > before, f"turn {turn} adds no tokens to the {before} there were")
            before = len(ids)
        self._facts["tokens"] = before
        self._facts["last_over_first"] = round(sum(self._seconds[-4:]) / sum(self._seconds[:4]), 2)
