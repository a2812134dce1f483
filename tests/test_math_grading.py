"""The grader of mathematical answers."""

from __future__ import annotations

import threading
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolenv.errors import SandboxError
from toolenv.grading import math as grading
from toolenv.grading.math import math_equal, math_equal_batch, number, plain, quick_equal
from toolenv.grading.math_check import read
from toolenv.sandbox import ExecJob, ExecResult, SandboxPool

pytestmark = pytest.mark.core


def same(answer: str, gold: str, verdict: bool | None) -> tuple[str, str, bool | None]:
    return answer, gold, verdict


PAIRS = [
    same("42", "42", True),
    same(" \\boxed{42} ", "42", True),
    same("$42$.", "42", True),
    same("42.0", "42", True),
    same("1,234,567", "1234567", True),
    same("\\dfrac{2}{4}", "0.5", True),
    same("-3/4", "-\\frac{3}{4}", True),
    same("1e3", "1000", True),
    same("0.3333333", "1/3", True),
    same("0.33", "1/3", False),
    same("41", "42", False),
    same("1/0", "5", False),
    same("", "5", False),
    same("1 1/2", "11/2", False),
    same("\\frac{\\sqrt{2}}{2}", "sqrt(2)/2", True),
    same("1/\\sqrt{2}", "sqrt(2)/2", True),
    same("sqrt(177)", "sqrt(708)/2", True),
    same("sqrt(178)", "sqrt(708)/2", False),
    same("x = 5", "5", True),
    same("\\{2, 1\\}", "\\{1, 2\\}", True),
    same("(2, 1)", "(1, 2)", False),
    same("(x + 1)**2", "x^2 + 2x + 1", True),
    same("3 + 2*I", "3 + 2i", True),
    same("-1950 + 31213*ln(7)/4", "31213/4*log(7) - 1950", True),
    same("\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}", "Matrix([[1, 2], [3, 4]])", True),
    same("90^\\circ", "90", True),
    same("The answer is $7$", "7", True),
    same("\\text{Tuesday}", "Tuesday", True),
    same("Tuesday", "Monday", False),
    same("\ud800", "5", False),
    same("x" * 5000, "5", False),
]


def test_verdicts() -> None:
    verdicts = math_equal_batch([(answer, gold) for answer, gold, _ in PAIRS])
    wrong = [(pair, got) for pair, got in zip(PAIRS, verdicts, strict=True) if got is not pair[2]]
    assert wrong == []


def test_an_answer_that_explodes_is_wrong_and_the_grader_lives_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grading, "CPU_S", 1)
    pairs = [("9**9**9**9", "5"), ("10^{10^{10^{10}}}", "7"), ("sqrt(8)", "2*sqrt(2)")]
    assert math_equal_batch(pairs) == [False, False, True]


def test_a_gold_answer_that_explodes_gives_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grading, "CPU_S", 1)
    assert math_equal("sqrt(5)", "9**9**9**9") is None


def test_a_stalled_worker_gives_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grading, "TIMEOUT_S", 0.0)
    assert math_equal("7*sqrt(5)", "\\sqrt{245}") is None


def test_it_works_in_a_thread() -> None:
    found: list[bool | None] = []
    thread = threading.Thread(target=lambda: found.append(math_equal("2*sqrt(3)", "\\sqrt{12}")))
    thread.start()
    thread.join()
    assert found == [True]


class LostSandbox:
    """Counts what it is asked, and loses all of it."""

    def __init__(self) -> None:
        self.jobs: list[ExecJob] = []

    def exec(self, code: str, *, timeout_s: float, max_output_bytes: int = 0) -> ExecResult:
        self.jobs.append(ExecJob(code))
        raise SandboxError("lost")

    def close(self) -> None:
        """Nothing to close."""


def test_a_lost_worker_gives_no_verdict_which_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    lost = LostSandbox()
    pool = SandboxPool(lambda: lost, workers=1)
    with monkeypatch.context() as patch:
        patch.setattr(grading, "_pool", lambda: pool)
        assert math_equal("2*sqrt(5)", "\\sqrt{20}") is None
        assert len(lost.jobs) == 2, "a lost call is asked once more"
    assert math_equal("2*sqrt(5)", "\\sqrt{20}") is True


def test_verdicts_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    assert math_equal("3*sqrt(5)", "\\sqrt{45}") is True
    pool = SandboxPool(LostSandbox, workers=1)
    monkeypatch.setattr(grading, "_pool", lambda: pool)
    assert math_equal_batch([("3*sqrt(5)", "\\sqrt{45}")] * 2) == [True, True]


@pytest.mark.parametrize(
    "code", ["__import__('os').system('x')", "x.__class__", "().__class__", "open('f')", "exec('1')", "lambda: 1"]
)
def test_only_mathematics_is_evaluated(code: str) -> None:
    assert all(not callable(reading) for reading in read(code))
    assert math_equal(code, "5") is False


@given(value=st.fractions(max_denominator=10**6))
def test_fractions_are_read_in_every_spelling(value: Fraction) -> None:
    sign = "-" if value < 0 else ""
    above, below = abs(value.numerator), value.denominator
    latex = f"\\frac{{{above}}}{{{below}}}"
    for text in (f"{sign}{above}/{below}", f"{sign}{latex}", latex.replace("{", f"{{{sign}", 1)):
        assert number(text) == value
        assert quick_equal(f"$\\boxed{{ {text} }}$", str(value)) is True
        assert quick_equal(text, str(value + 1)) is False


@given(value=st.integers(), digits=st.integers(0, 6))
def test_decimals_are_read(value: int, digits: int) -> None:
    exact = Fraction(value, 10**digits)
    assert number(f"{value}e-{digits}") == exact
    assert number(f"{value:,}") == value


@given(text=st.text(st.characters(), max_size=60))
def test_any_text_equals_itself_or_is_blank(text: str) -> None:
    assert quick_equal(text, text) is True
    assert plain(plain(text)) == plain(text) or "\\boxed{" in text or "$" in text or "\\" in text


@settings(max_examples=20)
@given(text=st.text(st.sampled_from("0123456789+-*/^()[]{}\\$ .,xyfrac\ud800\0%=<>|!_&"), max_size=40))
def test_any_answer_gets_a_verdict(text: str) -> None:
    assert math_equal(text, "sqrt(2) + 1") in (True, False)
