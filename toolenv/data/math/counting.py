"""Generators of problems of combinatorics and geometry; the programs work in another way than the answers."""

from __future__ import annotations

import math
from collections import Counter
from fractions import Fraction
from itertools import combinations, pairwise

import numpy as np

from toolenv.data.math.numbers import choose, draw, primes_below
from toolenv.data.math.problem import Problem


def lattice_paths(rng: np.random.Generator) -> Problem:
    """Paths to the right and up on a grid that keep clear of some points."""
    width, height = draw(rng, 6, 14), draw(rng, 6, 14)
    points = {(draw(rng, 1, width - 1), draw(rng, 1, height - 1)) for _ in range(draw(rng, 2, 4))}
    blocked = sorted(points)
    # Inclusion and exclusion over chains of blocked points.
    answer = 0
    for count in range(len(blocked) + 1):
        for chain in combinations(blocked, count):
            stops = [(0, 0), *chain, (width, height)]
            ways = math.prod(_ways(a, b) for a, b in pairwise(stops))
            answer += (-1) ** count * ways
    listed = ", ".join(f"({x}, {y})" for x, y in blocked)
    return Problem(
        f"How many paths lead from (0, 0) to ({width}, {height}) by steps of length 1 to the right or up without "
        f"visiting any of the points {listed}?",
        str(answer),
        f"blocked = {set(blocked)!r}\nways = {{(0, 0): 1}}\nfor x in range({width} + 1):\n"
        f"    for y in range({height} + 1):\n        if (x, y) != (0, 0):\n"
        "            ways[x, y] = 0 if (x, y) in blocked else ways.get((x - 1, y), 0) + ways.get((x, y - 1), 0)\n"
        f"print(ways[{width}, {height}])",
    )


def _ways(start: tuple[int, int], end: tuple[int, int]) -> int:
    right, up = end[0] - start[0], end[1] - start[1]
    return math.comb(right + up, up) if right >= 0 and up >= 0 else 0


def coin_change(rng: np.random.Generator) -> Problem:
    """Ways to pay an amount with given coins."""
    coins = choose(rng, range(2, 26), 4)
    amount = draw(rng, 60, 240)
    ways = [1] + [0] * amount
    for coin in coins:
        for total in range(coin, amount + 1):
            ways[total] += ways[total - coin]
    listed = ", ".join(str(c) for c in coins[:-1])
    return Problem(
        f"In how many ways can an amount of {amount} be paid with coins of value {listed} and {coins[-1]}, where any "
        "number of each may be used and order does not matter?",
        str(ways[amount]),
        "from functools import cache\n\n@cache\ndef ways(amount, coins):\n    if not coins:\n"
        "        return int(amount == 0)\n"
        "    return sum(ways(amount - k, coins[1:]) for k in range(0, amount + 1, coins[0]))\n\n"
        f"print(ways({amount}, {tuple(coins)!r}))",
    )


def indivisible(rng: np.random.Generator) -> Problem:
    """How many numbers up to a limit no given number divides."""
    divisors = choose(rng, range(4, 40), 3)
    limit = draw(rng, 2_000, 90_000)
    answer = 0
    for count in range(4):
        for chosen in combinations(divisors, count):
            answer += (-1) ** count * (limit // math.lcm(*chosen))
    a, b, c = divisors
    return Problem(
        f"How many integers from 1 to {limit} are divisible by none of {a}, {b} and {c}?",
        str(answer),
        f"print(sum(1 for n in range(1, {limit} + 1) if n % {a} and n % {b} and n % {c}))",
    )


def binary_strings(rng: np.random.Generator) -> Problem:
    """Strings without a long run of one letter."""
    letters, run, length = draw(rng, 2, 9), draw(rng, 2, 5), draw(rng, 8, 60)
    # free[n]: strings of length n that do not end in 0 (or are empty); each string is a free one and a short run.
    free = [1]
    for n in range(1, length + 2):
        free.append((letters - 1) * sum(free[n - 1 - k] for k in range(min(run, n))))
    answer = free[length + 1] // (letters - 1)
    digits = ", ".join(str(d) for d in range(letters - 1)) + f" and {letters - 1}"
    return Problem(
        f"How many strings of length {length} over the digits {digits} contain no {run} consecutive zeros?",
        str(answer),
        f"ends = [1] + [0] * {run - 1}  # by the number of zeros at the end\nfor _ in range({length}):\n"
        f"    ends = [{letters - 1} * sum(ends)] + ends[:-1]\nprint(sum(ends))",
    )


def arrangements(rng: np.random.Generator) -> Problem:
    """Arrangements of the letters of a word in which no two of one letter stand side by side."""
    counts = {letter: draw(rng, 1, 4) for letter in "bcde"}
    apart = draw(rng, 2, 5)
    rest = sum(counts.values())
    others = math.factorial(rest) // math.prod(math.factorial(c) for c in counts.values())
    word = "".join(letter * count for letter, count in sorted((counts | {"a": apart}).items()))
    word = "".join(word[i] for i in rng.permutation(len(word)))
    return Problem(
        f"In how many distinct ways can the letters of {word!r} be arranged so that no two letters a are adjacent?",
        str(math.comb(rest + 1, apart) * others),
        "from collections import Counter\nfrom functools import cache\n\n@cache\ndef count(left, last):\n"
        "    if not any(n for _, n in left):\n        return 1\n    total = 0\n    for letter, n in left:\n"
        "        if n and not letter == last == 'a':\n"
        "            total += count(tuple((x, m - (x == letter)) for x, m in left), letter)\n    return total\n\n"
        f"print(count(tuple(sorted(Counter({word!r}).items())), ''))",
    )


def triangle_points(rng: np.random.Generator) -> Problem:
    """Lattice points inside a triangle."""
    while True:
        (ax, ay), (bx, by), (cx, cy) = corners = [(draw(rng, -30, 30), draw(rng, -30, 30)) for _ in range(3)]
        doubled = abs((bx - ax) * (cy - ay) - (cx - ax) * (by - ay))
        if doubled > 100:
            break
    edge = sum(math.gcd(x - u, y - v) for (x, y), (u, v) in zip(corners, corners[1:] + corners[:1], strict=True))
    listed = ", ".join(f"({x}, {y})" for x, y in corners)
    return Problem(
        f"How many points with integer coordinates lie strictly inside the triangle with vertices {listed}?",
        str((doubled - edge + 2) // 2),  # Pick's theorem
        f"a, b, c = {corners!r}\n\ndef side(p, q, x, y):\n"
        "    return (q[0] - p[0]) * (y - p[1]) - (q[1] - p[1]) * (x - p[0])\n\ncount = 0\nfor x in range(-30, 31):\n"
        "    for y in range(-30, 31):\n        sides = side(a, b, x, y), side(b, c, x, y), side(c, a, x, y)\n"
        "        count += all(s > 0 for s in sides) or all(s < 0 for s in sides)\nprint(count)",
    )


def dice_probability(rng: np.random.Generator) -> Problem:
    """Probability of a sum of several dice."""
    sides, dice = choose(rng, (4, 6, 8, 10, 12), 1)[0], draw(rng, 3, 6)
    target = draw(rng, 2 * dice, (sides - 1) * dice)
    ways = Counter({0: 1})
    for _ in range(dice):
        total: Counter[int] = Counter()
        for value, count in ways.items():
            for face in range(1, sides + 1):
                total[value + face] += count
        ways = total
    relation, low, high = (
        ("exactly", target, target), ("at least", target, sides * dice), ("at most", dice, target)
    )[draw(rng, 0, 2)]  # fmt: skip
    favourable = sum(count for value, count in ways.items() if low <= value <= high)
    return Problem(
        f"{dice} fair dice with {sides} sides each, numbered 1 to {sides}, are rolled. What is the probability that "
        f"the sum is {relation} {target}? Give a fraction in lowest terms.",
        str(Fraction(favourable, sides**dice)),
        f"import sympy\nx = sympy.symbols('x')\nsums = sympy.Poly(sum(x ** k for k in range(1, {sides + 1})), x) "
        f"** {dice}\nways = sum(sums.coeff_monomial(x ** k) for k in range({low}, {high + 1}))\n"
        f"print(sympy.Rational(ways, {sides} ** {dice}))",
    )


def twin_digits(rng: np.random.Generator) -> Problem:
    """Numbers of a range with a property of their digits."""
    low, digit_total = draw(rng, 1_000, 30_000), draw(rng, 8, 24)
    high = low + draw(rng, 2_000, 9_000)
    divisor = choose(rng, primes_below(14), 1)[0]
    first = low + (-low) % divisor
    answer = sum(1 for n in range(first, high + 1, divisor) if sum(map(int, str(n))) == digit_total)
    return Problem(
        f"How many multiples of {divisor} from {low} to {high} have digits that add up to {digit_total}?",
        str(answer),
        f"print(sum(n % {divisor} == 0 and sum(int(d) for d in str(n)) == {digit_total} "
        f"for n in range({low}, {high + 1})))",
    )
