r"""Operators that a mathematical answer may not leave undone.

A computer algebra system finds that ``\int_0^1 2x\,dx`` equals 1, and yet to write it is to repeat the question. So an
answer is refused if it holds an integral, a sum, a product, a limit, a derivative, a determinant, a matrix, a greatest
common divisor, a remainder, a binomial coefficient, a rounding or an extremum that the gold answer does not hold.
Arithmetic, roots, logarithms, trigonometry, constants and factorials are answers.
"""

from __future__ import annotations

import re
from functools import lru_cache

# As a LaTeX command, or as the name of a function: case does not count.
_NAMES = {
    "integral": "i{0,4}int|idotsint|oint|oiint|intop|smallint|integral|integrate",
    "sum": "sum|summation",
    "product": "prod|product|coprod",
    "limit": "lim|limit|limsup|liminf",
    "derivative": "diff|derivative|differentiate|partial|nabla",
    "determinant": "det|determinant",
    "matrix": "[pb]?(?:small)?matrix",
    "gcd": "i?gcd|i?lcm|hcf",
    "remainder": "rem|remainder",
    "binomial": "[dt]?binom|binomial|comb|ncr",
    "rounding": "floor|ceil|ceiling|[lr]floor|[lr]ceil",
    "extremum": "max|min",
}
_SIGNS = {
    "integral": "[∫∬∭∮]",
    "sum": "∑",
    "product": "∏",
    "derivative": r"∂|(?<![a-z\\])d(?:\s*\^\s*\{?\d\}?)?\s*[^{}/]*(?:\}\s*\{|/)\s*d\s*[a-z](?![a-z])",
    "determinant": r"\\begin\s*\{\s*vmatrix",
    "matrix": r"\\begin\s*\{\s*(?:[pb]?(?:small)?matrix|array)",
    "remainder": r"(?<![a-z])[bp]?mod(?:ulo)?(?![a-z])|%\s*\(?\s*\d",
    "binomial": "(?<![a-z])choose(?![a-z])",
    "rounding": "[⌊⌈]",
}
_OPENS = r"\s*(?:\\(?:left|big|Big|limits|nolimits|[,;:! ])\s*)*\\?[(\[{_^]"
_PATTERNS = [
    *((kind, rf"\\(?:{names})(?![a-z])|(?<![a-z\\])(?:{names}){_OPENS}") for kind, names in _NAMES.items()),
    *_SIGNS.items(),
]
_COMPILED = [(kind, re.compile(pattern, re.IGNORECASE)) for kind, pattern in _PATTERNS]
_WRAPPED = re.compile(r"\\(?:operatorname\*?|operatornamewithlimits|math(?:rm|op|bf|it|sf)|text[a-z]*)\s*\{([^{}]*)\}")


@lru_cache(maxsize=10_000)
def operators(text: str) -> frozenset[str]:
    r"""Kinds of operators that a text holds, in LaTeX, in Python's syntax or as signs.

    Example:
        >>> sorted(operators("\\sum_{i=1}^{9} \\gcd(i, 9)")), sorted(operators("3**100 % 7"))
        (['gcd', 'sum'], ['remainder'])
        >>> sorted(operators("\\frac{2\\sqrt{3}}{5} + \\ln 7 - 5!"))
        []
    """
    text = _WRAPPED.sub(r" \1 ", text)
    return frozenset(kind for kind, pattern in _COMPILED if pattern.search(text))
