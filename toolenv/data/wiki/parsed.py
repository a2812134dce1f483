"""Wikitext to plain text by mwparserfromhell, which knows the wikis of today better than our own passes do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from toolenv.data.wiki.links import link_text, raised, template_text
from toolenv.data.wiki.markup import literal, plain_text
from toolenv.extras import require

_DROPPED = {
    *("ref", "references", "table", "math", "chem", "ce", "pre", "source", "syntaxhighlight", "timeline", "hiero"),
    *("score", "gallery", "imagemap", "script", "style", "graph", "mapframe", "maplink", "templatestyles", "indicator"),
}
_LINES = {"br", "p", "div", "li", "ul", "ol", "dl", "tr", "td", "th", "caption", "center", "blockquote", "hr", "poem"}
_MARKS = {"*", "#", ":", ";"}


def parse_text(wikitext: str) -> str:
    """Wikitext without its markup, as ``plain_text`` gives it, read by a parser.

    Raises:
        MissingExtraError: mwparserfromhell is not installed.

    Example:
        >>> parse_text("'''Lyon''' is a [[city]] on the [[Rhone|river Rhone]].{{citation needed}}<ref>A map.</ref>")
        'Lyon is a city on the river Rhone.'
    """
    parser = require("mwparserfromhell", "wiki")
    code = parser.parse(wikitext.replace("\r", ""))
    # Our own passes see what is left, where the parser took broken markup for text.
    return plain_text("".join(_texts(code)))


def _texts(code: Any) -> Iterator[str]:
    """What a reader sees of the nodes of a page, one after another."""
    for node in code.nodes if code is not None else ():
        match type(node).__name__:
            case "Text" | "HTMLEntity":
                yield str(node)
            case "Wikilink":
                label = "" if node.text is None else "|" + "".join(_texts(node.text))
                yield link_text(f"{node.title}{label}")
            case "ExternalLink":
                yield "".join(_texts(node.title)) if node.brackets else str(node.url)
            case "Heading":
                marks = "=" * node.level
                yield f"{marks} {''.join(_texts(node.title)).strip()} {marks}"
            case "Template":
                shown = [str(node.name), *("".join(_texts(p.value)) for p in node.params if not p.showkey)]
                yield template_text("|".join(shown))
            case "Tag":
                yield from _tag(node)


def _tag(node: Any) -> Iterator[str]:
    name = str(node.tag).strip().lower()
    if node.wiki_markup in _MARKS:
        yield str(node.wiki_markup)
    elif name == "nowiki":
        yield literal(str(node.contents))
    elif name == "sup":
        yield raised("".join(_texts(node.contents)))
    elif name not in _DROPPED:
        edge = "\n" if name in _LINES else ""
        yield edge
        yield from _texts(node.contents)
        yield edge
