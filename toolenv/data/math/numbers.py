"""Generators of problems of number theory; the programs work in another way than the answers were found."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import numpy as np

from toolenv.data.math.problem import Problem

SIEVE_LIMIT = 200_000


@cache
def primes_below(limit: int = SIEVE_LIMIT) -> tuple[int, ...]:
    """All primes below ``limit``.

    Example:
        >>> primes_below(12)
        (2, 3, 5, 7, 11)
    """
    sieve = np.ones(limit, dtype=np.bool_)
    sieve[:2] = False
    for n in range(2, math.isqrt(limit) + 1):
        if sieve[n]:
            sieve[n * n :: n] = False
    return tuple(int(n) for n in np.flatnonzero(sieve))


def draw(rng: np.random.Generator, low: int, high: int) -> int:
    """An integer from ``low`` to ``high``, both included."""
    return int(rng.integers(low, high + 1))


def choose(rng: np.random.Generator, items: Sequence[int], count: int) -> list[int]:
    """``count`` different items, in order."""
    return sorted(items[i] for i in rng.choice(len(items), count, replace=False))


def modular_power(rng: np.random.Generator) -> Problem:
    """A remainder of a large power, plus a small term."""
    base, exponent, modulus = draw(rng, 12, 999), draw(rng, 10_000, 9_999_999), draw(rng, 1_000, 99_999)
    extra = draw(rng, 2, 50)
    return Problem(
        f"What is the remainder when {base}^{exponent} + {extra} is divided by {modulus}?",
        str((pow(base, exponent, modulus) + extra) % modulus),
        f"print((pow({base}, {exponent}, {modulus}) + {extra}) % {modulus})",
    )


def congruences(rng: np.random.Generator) -> Problem:
    """The smallest number with three given remainders."""
    moduli = choose(rng, [n for n in primes_below(60) if n > 10], 3)
    secret = draw(rng, 1, math.prod(moduli) - 1)
    first, second, third = ((m, secret % m) for m in moduli)
    return Problem(
        f"Find the smallest positive integer that leaves remainder {first[1]} when divided by {first[0]}, remainder "
        f"{second[1]} when divided by {second[0]}, and remainder {third[1]} when divided by {third[0]}.",
        str(secret),
        f"n = 1\nwhile (n % {first[0]}, n % {second[0]}, n % {third[0]}) != ({first[1]}, {second[1]}, {third[1]}):\n"
        "    n += 1\nprint(n)",
    )


def divisor_sum(rng: np.random.Generator) -> Problem:
    """Sum or number of the divisors of a number with several prime factors."""
    primes = choose(rng, primes_below(60), 3)
    exponents = [draw(rng, 1, 4), draw(rng, 1, 2), 1]
    number = math.prod(p**e for p, e in zip(primes, exponents, strict=True))
    if rng.random() < 0.5:
        answer = math.prod((p ** (e + 1) - 1) // (p - 1) for p, e in zip(primes, exponents, strict=True))
        return Problem(
            f"What is the sum of all positive divisors of {number}?",
            str(answer),
            f"import sympy\nprint(sum(sympy.divisors({number})))",
        )
    return Problem(
        f"How many positive divisors does {number} have?",
        str(math.prod(e + 1 for e in exponents)),
        f"import sympy\nprint(len(sympy.divisors({number})))",
    )


def digit_sum(rng: np.random.Generator) -> Problem:
    """Sum of the digits of a power or a factorial."""
    if rng.random() < 0.8:
        base, exponent = draw(rng, 2, 99), draw(rng, 30, 250)
        value, text, code = base**exponent, f"{base}^{exponent}", f"{base} ** {exponent}"
    else:
        n = draw(rng, 20, 300)
        value, text, code = math.factorial(n), f"{n}!", f"math.factorial({n})"
    return Problem(
        f"What is the sum of the decimal digits of {text}?",
        str(sum(map(int, str(value)))),
        f"import math\nprint(sum(int(d) for d in str({code})))",
    )


def primes_between(rng: np.random.Generator) -> Problem:
    """How many primes lie between two numbers, or their sum."""
    low = draw(rng, 1_000, 150_000)
    high = low + draw(rng, 200, 2_000)
    found = [p for p in primes_below() if low < p < high]
    asked, answer, code = ("How many primes are there", len(found), "len")
    if rng.random() < 0.4:
        asked, answer, code = ("What is the sum of all primes", sum(found), "sum")
    return Problem(
        f"{asked} strictly between {low} and {high}?",
        str(answer),
        f"import sympy\nprint({code}(list(sympy.primerange({low + 1}, {high}))))",
    )


def discrete_logarithm(rng: np.random.Generator) -> Problem:
    """The smallest exponent that gives a remainder."""
    prime = choose(rng, [p for p in primes_below(4_000) if p > 400], 1)[0]
    base = draw(rng, 2, 40)
    target = pow(base, draw(rng, 30, prime - 2), prime)
    power, exponent = base % prime, 1
    while power != target:
        power, exponent = power * base % prime, exponent + 1
    return Problem(
        f"Find the smallest positive integer x such that {base}^x leaves remainder {target} when divided by {prime}.",
        str(exponent),
        f"x = 1\nwhile pow({base}, x, {prime}) != {target}:\n    x += 1\nprint(x)",
    )


def gcd_sum(rng: np.random.Generator) -> Problem:
    """A sum of greatest common divisors over a range."""
    number, last = draw(rng, 30, 999), draw(rng, 100, 800)
    divisors = [d for d in range(1, number + 1) if number % d == 0]
    answer = sum(math.gcd(k, number) for k in range(1, last + 1))
    if len(divisors) > 8:
        return Problem(
            f"Compute the sum of gcd(k, {number}) for k = 1, 2, ..., {last}.",
            str(answer),
            f"import math\nprint(sum(math.gcd(k, {number}) for k in range(1, {last} + 1)))",
        )
    small = draw(rng, 6, 30)
    return Problem(
        f"What is the least common multiple of all integers from 1 to {small} and the number {number}?",
        str(math.lcm(*range(1, small + 1), number)),
        f"import math\nprint(math.lcm(*range(1, {small} + 1), {number}))",
    )


def decimal_digits(rng: np.random.Generator) -> Problem:
    """One far digit of a fraction, or the length of its period."""
    below = choose(rng, [p for p in primes_below(1_000) if p > 10], 1)[0]
    above, place = draw(rng, 1, below - 1), draw(rng, 1_000, 99_999)
    if rng.random() < 0.7:
        return Problem(
            f"What is the digit in place {place} after the decimal point of {above}/{below}?",
            str(10 * (above * pow(10, place - 1, below) % below) // below),
            f"print({above} * 10 ** {place} // {below} % 10)",
        )
    power = draw(rng, 1, 3)
    period = next(k for k in range(1, below) if pow(10, k, below) == 1)
    modulus = 10**power + draw(rng, 1, 80)
    return Problem(
        f"Let L be the length of the repeating block in the decimal expansion of 1/{below}. "
        f"What is the remainder of 7^L divided by {modulus}?",
        str(pow(7, period, modulus)),
        f"length = 1\nremainder = 10 % {below}\nwhile remainder != 1:\n    remainder = remainder * 10 % {below}\n"
        f"    length += 1\nprint(7 ** length % {modulus})",
    )
