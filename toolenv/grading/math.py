"""Whether a mathematical answer is right.

Equal texts and plain numbers are compared here. Everything else goes to math-verify in a worker process, where an
expression that explodes (``9**9**9**9``) is killed when it has used up its CPU time, whatever thread asked. CPU time
decides, not the clock, so a busy machine makes no answer wrong.
"""

from __future__ import annotations

import re
import threading
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

from toolenv.errors import SandboxError
from toolenv.formats import last_boxed
from toolenv.grading.operators import operators
from toolenv.sandbox.base import ExecJob, ExecResult
from toolenv.sandbox.pool import SandboxPool
from toolenv.sandbox.process import ProcessSandbox

CPU_S = 4
TIMEOUT_S = 60.0
MAX_CHARS = 1_000
CACHE_SIZE = 100_000
WORKERS = 2
TOLERANCE = Fraction(1, 10**6)

_CHECK = Path(__file__).with_name("math_check.py")
_LOAD = (
    f"import importlib.util, sys; spec = importlib.util.spec_from_file_location('math_check', {str(_CHECK)!r}); "
    "module = importlib.util.module_from_spec(spec); sys.modules['math_check'] = module; "
    "spec.loader.exec_module(module)"
)
# What is read and compared once in the worker costs nothing in its children.
_TRIES = (
    ("sqrt(2)/2", r"\frac{1}{\sqrt{2}}"),
    ("(x + 1)**2", "x^2 + 2x + 1"),
    ("[1, 2]", "(1, 2)"),
    (r"\{1, 2\}", r"\{2, 1\}"),
    ("3/4*log(7) - 1/9", r"\frac{3}{4} \ln 7 - \frac{1}{9}"),
    ("The answer is 50", r"50^\circ"),
    ("3 + 2*I", "3 + 2i"),
    ("(-oo, 3)", r"(-\infty, 3)"),
    ("Matrix([[1, 2], [3, 4]])", r"\begin{pmatrix} 1 & 2 \\ 3 & 5 \end{pmatrix}"),
    ("sin(x)**2 + pi", "x = 1"),
)
_TRY = tuple(f"import math_check as m; m.same(m.read({gold!r}), m.read({answer!r}))" for answer, gold in _TRIES)
_PROGRAM = """
import resource, math_check
resource.setrlimit(resource.RLIMIT_CPU, ({cpu_s}, {cpu_s} + 1))
gold = math_check.read({gold!a})
print("gold read", flush=True)
print(math_check.same(gold, math_check.read({answer!a})))
"""

_cache: dict[tuple[str, str], bool] = {}
_cache_lock = threading.Lock()


def math_equal(answer: str, gold: str) -> bool | None:
    r"""Whether an answer equals the gold one, as mathematics.

    LaTeX, plain numbers and expressions in Python's syntax are read. Answers of more than 1,000 characters are wrong,
    and so are those that leave an operator undone that the gold answer does not hold (see ``operators``).

    Args:
        answer: What the model wrote; nothing that it writes is trusted.
        gold: The right answer.

    Returns:
        ``None`` where there is no verdict: the worker was lost or stalled, or the gold answer itself cannot be read.
        An answer that takes more than 4 s of CPU time, or more than the memory limit, is wrong: ``False``.

    Example:
        >>> math_equal("0.5", "1/2"), math_equal("3", "4")
        (True, False)
        >>> math_equal("sqrt(2)/2", "\\frac{1}{\\sqrt{2}}")
        True
    """
    verdict = quick_equal(answer, gold)
    if verdict is None:
        verdict = _cache.get((answer, gold))
    if verdict is None:
        verdict = _ask(answer, gold)
        if verdict is not None:
            with _cache_lock:
                if len(_cache) > CACHE_SIZE:
                    _cache.clear()
                _cache[answer, gold] = verdict
    return verdict


def quick_equal(answer: str, gold: str) -> bool | None:
    r"""The verdict where no algebra is needed, else ``None``.

    Example:
        >>> quick_equal("$1,234$", "1234"), quick_equal("\\frac{2}{4}", "0.5"), quick_equal("x+1", "1+x")
        (True, True, None)
    """
    if len(answer.strip()) > MAX_CHARS:
        return False
    undone = operators(_unboxed(answer)) - operators(_unboxed(gold))
    answer, gold = plain(answer), plain(gold)
    if answer == gold:
        return True
    if undone or not answer:
        return False
    in_base, right_base = _IN_BASE.match(answer), _IN_BASE.match(gold)
    if in_base and right_base:  # the base is a part of what is written: 52_8 is not 52_9
        return in_base.groups() == right_base.groups()
    value, right = number(answer), number(gold)
    if value is None or right is None:
        return None
    if not {".", "e", "E"}.isdisjoint(answer + gold):  # a decimal may be rounded
        return abs(value - right) <= TOLERANCE * min(Fraction(1), abs(right))
    return value == right


_WORDS = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf)\{([^{}]*)\}")
_DROPPED = re.compile(r"\\left|\\right|\\[,;:! ]|\\displaystyle|(?<!\d)\s+|\s+(?!\d)|\.$")
_THOUSANDS = re.compile(r"[+-]?\d{1,3}(,\d{3})+(\.\d+)?\Z")
_NUMBER = re.compile(r"[+-]?(\d{1,400}(\.\d{0,400})?|\.\d{1,400})([eE][+-]?\d{1,3})?\Z")
_IN_BASE = re.compile(r"([+-]?[0-9A-Za-z]+)_\{?(\d+)\}?\Z")
_RATIO = re.compile(r"([+-]?)(?:\\frac\{(-?\d{1,400})\}\{(-?\d{1,400})\}|(\d{1,400})/(\d{1,400}))\Z")


def plain(text: str) -> str:
    r"""An answer without its wrapping: ``\boxed``, dollar signs, spaces, a final dot.

    Example:
        >>> plain("$\\boxed{ \\dfrac{1}{2} }$.")
        '\\frac{1}{2}'
    """
    text = _WORDS.sub(r"\1", _unboxed(text).strip("$")).replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac")
    return _DROPPED.sub("", _DROPPED.sub("", text))


def _unboxed(text: str) -> str:
    text = text.strip()
    boxed = last_boxed(text) if "\\boxed{" in text else None
    return text if boxed is None else boxed


@lru_cache(maxsize=10_000)
def number(text: str) -> Fraction | None:
    r"""The value of an integer, decimal or fraction without wrapping, ``None`` where it is anything else.

    Example:
        >>> number("1,200"), number("-3/4"), number("2**10")
        (Fraction(1200, 1), Fraction(-3, 4), None)
    """
    if _THOUSANDS.match(text):
        text = text.replace(",", "")
    if not text.isascii():  # \d takes digits of every script
        return None
    if _NUMBER.match(text):
        return Fraction(text)
    ratio = _RATIO.match(text)
    if ratio is None:
        return None
    above, below = (int(part) for part in ratio.groups()[1:] if part is not None)
    if below == 0:
        return None
    return Fraction(-above if ratio.group(1) == "-" else above, below)


def _ask(answer: str, gold: str) -> bool | None:
    """The verdict of math-verify; ``None`` where workers are lost, too."""
    (result,) = _pool().run([ExecJob(_PROGRAM.format(answer=answer, gold=gold, cpu_s=CPU_S), TIMEOUT_S)])
    return None if isinstance(result, SandboxError) else _verdict(result)


def _verdict(result: ExecResult) -> bool | None:
    lines = result.stdout.split("\n")
    if result.status == "ok":
        return lines[1] == "True"
    stalled = result.status == "timeout" and result.exit_code is None  # by the clock, with CPU time to spare
    return False if lines[0] == "gold read" and not stalled else None


@lru_cache(maxsize=1)
def _pool() -> SandboxPool:
    packages = ("math_verify", "latex2sympy2_extended", "antlr4", "sympy", "mpmath")
    return SandboxPool(lambda: ProcessSandbox(packages=packages, warm=(_LOAD, *_TRY)), WORKERS)
