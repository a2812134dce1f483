"""Wikitext to plain text, in one pass after another, each of which takes time in proportion to the text."""

from __future__ import annotations

import re
from collections import Counter

from toolenv.data.wiki.links import link_text, raised, template_text

MAX_ROUNDS = 8
"""How deep links may stand in one another; what is deeper loses its brackets only."""

_OPAQUE = (
    "nowiki|math|chem|ce|pre|source|syntaxhighlight|timeline|hiero|score|gallery|imagemap|script|style|graph|mapframe"
)
_OPAQUE_OPEN = re.compile(rf"<!--|<({_OPAQUE})\b([^<>]*)>", re.IGNORECASE)
_MARKS = re.compile(r"[\[\]{}|'<>=*:!~_-]|(?<!&)#")

_ONE_BRACKET = re.compile(r"(?<!\[)\[(?!\w{3,6}:)([^\[\]]*)\]")
_LINK = re.compile(r"\[\[([^\[\]]*)\]\]")
_WEB_LINK = re.compile(
    r"\[(?:(?:https?|ftp|gopher|news|irc|mailto|telnet):|//)[^\s\[\]<>\"]*[ \t]*([^\[\]]*)\]", re.IGNORECASE
)

_ARGUMENT = re.compile(r"\{\{\{[^{}]*\}\}\}")
_NESTED = re.compile(
    r"(?P<template>\{\{)|(?P<end_template>\}{2,})"
    r"|^[ \t:*#]*(?P<table>\{\|)|^[ \t]*(?P<end_table>\|\}(?!\}))"
    r"|<(?P<end>/?)(?P<element>ref|table|references|includeonly)\b[^<>]*?(?P<empty>/?)>",
    re.MULTILINE | re.IGNORECASE,
)

_SUP = re.compile(r"<sup\b[^<>]*>([^<>]{1,40})</sup\s*>", re.IGNORECASE)
_LINE_TAG = re.compile(
    r"</?(?:br|p|div|li|ul|ol|dl|dd|dt|tr|td|th|table|caption|center|blockquote|hr|h[1-6])\b[^<>]*>", re.IGNORECASE
)
_TAG = re.compile(
    r"</?(?:abbr|b|bdi|bdo|big|cite|code|data|del|dfn|em|font|i|ins|kbd|mark|noinclude|includeonly|onlyinclude|nowiki|poem"
    r"|q|ref|references|rb|rp|rt|ruby|s|samp|section|small|span|strike|strong|sub|sup|templatestyles|time|tt|u|var|wbr"
    rf"|a|img|html|head|body|{_OPAQUE})(?:[\s/][^<>]*)?>",
    re.IGNORECASE,
)
_TABLE_LINE = re.compile(r"^[ \t:*#]*\{\|.*", re.MULTILINE)
_BRACKETS = re.compile(r"\[\[|\]\]|\{\{+|\}\}+|\{\||(?<!\|)\|\}")
_QUOTES = re.compile(r"'{2,}")
_ITALIC_POSSESSIVE = re.compile(r"(?<!')'''(?=s\b)")


def plain_text(wikitext: str) -> str:
    """Wikitext without its markup: what stays are words, headings (``== History ==``), marks of lists, and entities.

    Comments, references, templates, tables, formulas, code and images go with all they hold. Markup that is not
    closed loses its marks and keeps its words. ``prose`` makes lines of sentences of the result.

    Example:
        >>> plain_text("'''Lyon''' ({{IPA|ljɔ̃}}) is a [[city]] on the [[Rhone|river Rhone]].<ref>A map.</ref>")
        'Lyon () is a city on the river Rhone.'
    """
    text = _without_opaque(wikitext.replace("\r", ""))
    text = _without_links(text)
    text = _without_nested(_ARGUMENT.sub("", text))
    text = _SUP.sub(lambda found: raised(found[1]), text)
    text = _TAG.sub("", _LINE_TAG.sub("\n", text))
    text = _BRACKETS.sub("", _TABLE_LINE.sub("", text))
    if "''" in text:
        text = "\n".join(_without_quotes(line) for line in text.split("\n"))
    return text


def literal(text: str) -> str:
    """Text whose marks are no markup: each becomes an entity, which ``prose`` turns back.

    Example:
        >>> literal("[[Lyon]] &amp; ''Paris''")
        '&#91;&#91;Lyon&#93;&#93; &amp; &#39;&#39;Paris&#39;&#39;'
    """
    return _MARKS.sub(lambda found: f"&#{ord(found[0])};", text)


def _without_opaque(text: str) -> str:
    """Drop comments and elements whose inside is no wikitext; what stands in ``nowiki`` is kept as it is."""
    kept: list[str] = []
    unclosed: set[str] = set()
    position = 0
    while opened := _OPAQUE_OPEN.search(text, position):
        kept.append(text[position : opened.start()])
        position = opened.end()
        if opened[1] is None:
            end = text.find("-->", position)
            position = len(text) if end < 0 else end + 3
            continue
        name = opened[1].lower()
        if name in unclosed or opened[2].rstrip().endswith("/"):
            continue
        closed = re.compile(rf"</{name}\s*>", re.IGNORECASE).search(text, position)
        if closed is None:
            unclosed.add(name)  # so that many of them do not make many searches
            continue
        if name == "nowiki":
            kept.append(literal(text[position : closed.start()]))
        position = closed.end()
    kept.append(text[position:])
    return "".join(kept)


def _without_links(text: str) -> str:
    """Replace links by what is seen of them, the inner ones first."""
    text = _ONE_BRACKET.sub(r"&#91;\1&#93;", text)
    for _ in range(MAX_ROUNDS):
        text, links = _LINK.subn(lambda found: link_text(found[1]), text)
        text, web_links = _WEB_LINK.subn(r"\1", text)
        if not links and not web_links:
            break
    return text


def _without_nested(text: str) -> str:
    """Drop templates, tables and references, in one pass that keeps a stack of what is open."""
    nesting = _Nesting()
    position = 0
    for found in _NESTED.finditer(text):
        nesting.kept.append(text[position : found.start()])
        position = found.end()
        if found["template"] or found["table"]:
            nesting.open("template" if found["template"] else "table", found[0])
        elif found["end_template"]:
            for _ in range(len(found["end_template"]) // 2):
                nesting.kept.append(template_text(nesting.close("template")))
        elif found["end_table"]:
            nesting.close("table")
        elif found["end"]:
            nesting.close(found["element"].lower())
        elif not found["empty"]:
            nesting.open(found["element"].lower(), found[0])
    nesting.kept.append(text[position:])
    return "".join(nesting.kept)


class _Nesting:
    """What was kept of a text so far, and where in it something was opened that is not closed yet."""

    def __init__(self) -> None:
        self.kept: list[str] = []
        self._stack: list[tuple[str, int]] = []
        self._open: Counter[str] = Counter()  # so that what closes nothing makes no search

    def open(self, kind: str, mark: str) -> None:
        self._stack.append((kind, len(self.kept)))
        self._open[kind] += 1
        self.kept.append(mark)

    def close(self, kind: str) -> str:
        """Take back what was kept since the last ``kind`` was opened; nothing where none is open."""
        if not self._open[kind]:
            return ""
        opened = ""
        while opened != kind:
            opened, start = self._stack.pop()
            self._open[opened] -= 1
        inside = "".join(self.kept[start + 1 :])
        del self.kept[start:]
        return inside


def _without_quotes(line: str) -> str:
    """Drop the marks of bold and italic type; in ``''Lyon'''s`` and ``'''Lyon''''s`` the apostrophe stays."""
    if "'''s" in line:
        lengths = [len(run) for run in _QUOTES.findall(line)]
        if sum(n in (2, 5) for n in lengths) % 2 and sum(n in (3, 4, 5) for n in lengths) % 2:
            line = _ITALIC_POSSESSIVE.sub("\x00", line, count=1)
    line = _QUOTES.sub(lambda run: "'" if len(run[0]) == 4 else "", line)
    return line.replace("\x00", "'")
