"""An extension of griffe, which reads the docstrings for the site: it has them say what Markdown understands."""

from __future__ import annotations

import re
from typing import Any

import griffe

SINGLE = re.compile(r"^(\s*)Example:$", re.MULTILINE)
OPTIONAL = re.compile(r"\]\[(?=\*)")
LITERAL = re.compile(r"^::\n\n((?:    .*\n|\n)+)", re.MULTILINE)


class MarkdownDocstrings(griffe.Extension):
    """``Example:`` is read as ``Examples:``, the name by which griffe knows code; a literal block becomes a fence.

    What may be left out, as in ``[KWARGS][*WEIGHT]``, is no link.
    """

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Change the docstring of an object that was read."""
        if obj.docstring is not None:
            text = OPTIONAL.sub(r"]\\[", SINGLE.sub(r"\1Examples:", obj.docstring.value))
            obj.docstring.value = LITERAL.sub(lambda match: f"```text\n{match[1].rstrip()}\n```\n\n", text)

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """The same for a package, which is a member of nothing."""
        self.on_object(obj=pkg)
