"""The grader of mathematical answers."""

from __future__ import annotations

import re
import threading
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolenv.data.math import math_tasks
from toolenv.data.math.tasks import GENERATORS
from toolenv.errors import SandboxError
from toolenv.grading import math as grading
from toolenv.grading.math import math_equal, number, plain, quick_equal
from toolenv.grading.math_check import read
from toolenv.grading.math_check import same as same_reading
from toolenv.grading.operators import operators
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
    same("52_9", "52_8", False),
    same("52_{8}", "52_8", True),
    same("-37_9", "-37_8", False),
    same("42\\%", "0.42", True),
    same("43\\%", "0.42", False),
    same("$4210_{5}$", "4210_5", True),
    same("x \\in [-2,8]", "x \\in [-2,7]", False),
    same("x \\in (-2,7)", "x \\in [-2,7]", False),
    same("[-2,7]", "x \\in [-2,7]", True),
    same("$x\\in[-2, 7]$", "x \\in [-2,7]", True),
    same("(-2,7)", "[-2,7]", False),
    same("[1, 2]", "(1, 2)", True),  # a list for a pair: what Python prints
    same("[2, 1]", "[2, 1]", True),
    same("[1, 2, 3]", "[1, 2, 3.0]", True),
    same("x \\in \\{1, 3\\}", "x \\in \\{1, 2\\}", False),
    same("x \\notin \\{3\\}", "x \\notin \\{4\\}", False),
    same("1 < 2", "2 < 3", False),
    same("221, 8", "$221,$8$", True),
    same("221, 9", "$221,$8$", False),
    same("221", "$221,$8$", False),
    same("4, 8", "$8$,$4$", True),
    same("4", "$8$,$4$", False),
    same("\ud800", "5", False),
    same("x" * 5000, "5", False),
]


def test_verdicts() -> None:
    verdicts = [math_equal(answer, gold) for answer, gold, _ in PAIRS]
    wrong = [(pair, got) for pair, got in zip(PAIRS, verdicts, strict=True) if got is not pair[2]]
    assert wrong == []


def test_numbers_that_are_far_apart_need_no_algebra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Algebra takes more than 4 s of CPU time over this pair, and the verdict would be the limit's."""
    monkeypatch.setattr("math_verify.verify", None)

    def numbers(text: str) -> list[object]:
        return [reading for reading in read(text) if not isinstance(reading, str)]

    assert not same_reading(numbers("393216/7*log(4) - 393192/49"), numbers("393216/7*log(4) - 393192/48"))
    for pair in (("2", "2.00001"), ("10^9", "10^9 + 1"), ("\\pi", "3.14159265")):
        with pytest.raises(TypeError):  # near enough to ask
            same_reading(*map(numbers, pair))


def test_an_answer_that_explodes_is_wrong_and_the_grader_lives_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grading, "CPU_S", 1)
    pairs = [("9**9**9**9", "5"), ("10^{10^{10^{10}}}", "7"), ("sqrt(8)", "2*sqrt(2)")]
    assert [math_equal(*pair) for pair in pairs] == [False, False, True]


def test_a_gold_answer_that_explodes_gives_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grading, "CPU_S", 1)
    assert math_equal("sqrt(5)", "9**9**9**9") is None


def test_a_stalled_worker_gives_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grading, "TIMEOUT_S", 1e-4)
    assert math_equal("7*sqrt(5)", "\\sqrt{245}") is None


# Repeating the question ----------------------------------------------------------------------------------------------

UNDONE = [
    ("\\int_1^3 9x^3+5x^2+6x+1 dx", "706/3"),
    ("\\int\\limits_{0}^{1} 2x\\,dx", "1"),
    ("\\det\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}", "-2"),
    ("\\begin{vmatrix}1&2\\\\3&4\\end{vmatrix}", "-2"),
    ("\\left|\\begin{array}{cc}1&2\\\\3&4\\end{array}\\right|", "-2"),
    ("\\operatorname{tr}\\begin{bmatrix}1&2\\\\3&4\\end{bmatrix}", "5"),
    ("\\sum_{i=1}^{10} i^2", "385"),
    ("\\prod_{i=1}^{4} i", "24"),
    ("\\lim_{x\\to 2} x^2", "4"),
    ("\\frac{d}{dx} x^2", "2*x"),
    ("\\frac{\\mathrm{d}}{\\mathrm{d}x} x^2", "2*x"),
    ("\\frac{\\partial}{\\partial x} x^2", "2*x"),
    ("3^{100} \\mod 7", "4"),
    ("3^{100} \\bmod 7", "4"),
    ("3^{100} \\pmod{7}", "4"),
    ("3^{100} \\text{ mod } 7", "4"),
    ("3**100 % 7", "4"),
    ("3^{100} \\% 7", "4"),
    ("\\gcd(12,18)", "6"),
    ("gcd(12, 18)", "6"),
    ("\\operatorname{lcm}(4,6)", "12"),
    ("\\lcm\\left(4,6\\right)", "12"),
    ("binomial(10,3)", "120"),
    ("\\dbinom{10}{3}", "120"),
    ("{10 \\choose 3}", "120"),
    ("Integral(2*x, (x, 0, 1))", "1"),
    ("Sum(x, (x, 1, 4))", "10"),
    ("Product(x, (x, 1, 4))", "24"),
    ("Limit(x, x, 2)", "2"),
    ("Derivative(x**2, x)", "2*x"),
    ("integrate(2*x, (x, 0, 1))", "1"),
    ("diff(x**2, x)", "2*x"),
    ("floor(7/2)", "3"),
    ("\\lfloor 7/2 \\rfloor", "3"),
    ("\\max(3,5)", "5"),
    ("Matrix([[1, 2], [3, 4]])[0, 1]", "2"),
]


@pytest.mark.parametrize(("answer", "gold"), UNDONE)
def test_an_operator_left_undone_is_no_answer(answer: str, gold: str) -> None:
    assert math_equal(answer, gold) is False
    assert math_equal(f"$\\boxed{{{answer}}}$", gold) is False
    assert operators(answer)


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("2\\sqrt{3}", "sqrt(12)"),
        ("1/2 + 1/3", "5/6"),
        ("\\frac{\\pi}{2} + e", "pi/2 + E"),
        ("\\log_2 8", "3"),
        ("\\sqrt[3]{27}", "3"),
        ("5!", "120"),
        ("2^{10} \\cdot 3", "3072"),
        ("50\\%", "50\\%"),
        ("10 \\text{ min}", "10"),
        ("\\frac{d}{2}", "d/2"),
        ("the sum is $7$", "7"),
        ("\\begin{pmatrix}1\\\\2\\end{pmatrix}", "Matrix([1, 2])"),
        ("\\frac{n!}{k!(n-k)!}", "\\frac{n!}{(n-k)!k!}"),
        ("\\binom{n}{n-2}", "\\binom{n}{2}"),
        ("It is \\sum_{i=1}^{4} i, so \\boxed{10}", "10"),
    ],
)
def test_arithmetic_and_what_the_gold_answer_holds_are_answers(answer: str, gold: str) -> None:
    assert math_equal(answer, gold) is True


def restated(kind: str, prompt: str) -> list[str]:
    """Ways to write a problem down instead of its answer: what its prompt says, and the same in symbols."""
    numbers = re.findall(r"-?\d+", prompt)
    words = [part.strip(" ,.") for part in re.split(r"[;?]|\b[A-Za-z']{2,}\b", prompt)]
    ways = [part for part in words if re.search(r"\d", part) and len(part) > 1 and not part.isdecimal()]
    rows = [f"[{row}]" for row in re.findall(r"\(([^()]*,[^()]*)\)", prompt)]
    matrix = "\\\\".join(row.strip("[]").replace(",", "&") for row in rows)
    if "integral" in kind:
        body, low, high = re.search(r"of (.*) from x = (\S+) to x = (\d+|-\d+)", prompt).groups()  # type: ignore[union-attr]
        latex = body.replace("ln", "\\ln")
        ways += [f"\\int_{{{low}}}^{{{high}}} {latex} \\, dx", f"\\int_{low}^{high} ({latex}) dx"]
        ways += [f"Integral({body}, (x, {low}, {high}))", f"\\int\\limits_{{{low}}}^{{{high}}}{latex}dx"]
    elif kind == "determinant":
        ways += [f"\\det\\begin{{{e}}}{matrix}\\end{{{e}}}" for e in ("pmatrix", "bmatrix", "matrix")]
        ways += [f"\\begin{{vmatrix}}{matrix}\\end{{vmatrix}}", f"Matrix([{', '.join(rows)}]).det()"]
    elif kind == "matrix_power":
        power, modulus = numbers[-2:]
        ways.append(f"\\operatorname{{tr}}(\\begin{{pmatrix}}{matrix}\\end{{pmatrix}}^{{{power}}}) \\mod {modulus}")
    elif kind == "modular_power":
        base, power, shift, modulus = numbers
        for sign in ("\\mod", "\\bmod", "%", "mod", "\\%"):
            ways += [f"{base}^{{{power}}} + {shift} {sign} {modulus}", f"({base}**{power} + {shift}) {sign} {modulus}"]
    elif kind == "gcd_sum":
        listed = ",".join(map(str, range(int(numbers[0]), int(numbers[1]) + 1)))
        ways += [f"{name}({listed},{numbers[-1]})" for name in ("\\lcm", "lcm", "\\operatorname{lcm}", "\\gcd")]
        ways.append(f"\\sum_{{k={numbers[0]}}}^{{{numbers[1]}}} \\gcd(k, {numbers[-1]})")
    return ways


@pytest.mark.parametrize("kind", GENERATORS)
def test_repeating_the_question_earns_nothing(kind: str) -> None:
    task = next(task for task in math_tasks("test") if task.metadata["kind"] == kind)
    ways = restated(kind, task.prompt)
    paid = [way for way in ways if math_equal(way, task.answers[0])]
    assert paid == []


def test_the_questions_hold_something_to_repeat() -> None:
    first = {task.metadata["kind"]: task.prompt for task in reversed(math_tasks("test"))}
    counts = {kind: len(restated(kind, prompt)) for kind, prompt in first.items()}
    assert sum(count > 0 for count in counts.values()) >= 12
    assert min(counts[k] for k in ("modular_power", "gcd_sum", "determinant", "polynomial_integral", "recurrence")) >= 1


def test_what_stands_behind_a_long_gap_counts() -> None:
    assert quick_equal("4" + " " * 3000 + "no: 5", "4") is False
    assert quick_equal("\\boxed{4}" + "." * 3000, "4") is False
    assert quick_equal(" " * 3000 + "4\n", "4") is True


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
        assert [job.code for job in lost.jobs[1:]] == ["", ""], "the pool tries workers out before it asks again"
    assert math_equal("2*sqrt(5)", "\\sqrt{20}") is True


def test_verdicts_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    assert math_equal("3*sqrt(5)", "\\sqrt{45}") is True
    pool = SandboxPool(LostSandbox, workers=1)
    monkeypatch.setattr(grading, "_pool", lambda: pool)
    assert math_equal("3*sqrt(5)", "\\sqrt{45}") is True


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
