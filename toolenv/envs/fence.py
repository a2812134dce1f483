"""Programs that a model wrapped in Markdown."""

from __future__ import annotations

import re

OPENING = re.compile(r"(`{3,})[ \t]*(?:python3?|py)?", re.IGNORECASE)


def unfenced(code: str) -> str:
    r"""What is inside a Markdown fence for Python, where the code is one fenced block and nothing else.

    No Python program starts with a fence, so nothing that would run otherwise is changed.

    Example:
        >>> unfenced("```python\nprint(1)\n```\n")
        'print(1)'
    """
    first, _, rest = code.strip().partition("\n")
    opening = OPENING.fullmatch(first.rstrip())
    if opening is None:
        return code
    fence = opening[1]
    body, _, last = rest.rpartition("\n")
    if last.strip() != fence or any(line.lstrip().startswith(fence) for line in body.split("\n")):
        return code
    return body
