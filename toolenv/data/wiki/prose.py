"""Plain text to lines of prose: headings, lists and closing sections gone, entities and gaps mended."""

from __future__ import annotations

import html
import re

_LINKS = (
    "links",
    "external links",
    "external link",
    "web links",
    "related links",
    "internal links",
    "related articles",
)
_SOURCES = ("sources", "reference", "references", "cited references", "external references", "general references")
_NOTES = ("notes", "footnotes", "notes and references", "references and notes", "citations", "works cited")
_READING = ("further reading", "additional reading", "suggested reading", "recommended reading", "literature cited")
LEFT_OUT = frozenset({
    *_LINKS, *_SOURCES, *_NOTES, *_READING, "bibliography", "selected bibliography", "external sources", "see also",
    "see also and external links", "external links and references", "references and external links", "related topics",
    "gallery", "image gallery", "photo gallery",
})  # fmt: skip
"""Sections that hold links and sources rather than text."""

_HEADING = re.compile(r"(={2,6})\s*([^=]{1,200}?)\s*={2,6}|(=)([^=]+)=\Z")
_MARK = re.compile(r"[*#:;]+[ \t]*")
_TABLE_ROW = re.compile(r"\||!.*(?:!!|\|)")
_RULE = re.compile(r"-{4,}")
_SWITCH = re.compile(
    r"__(?:NO)?(?:TOC|FORCETOC|EDITSECTION|GALLERY|INDEX|CONTENTCONVERT|TITLECONVERT|NEWSECTIONLINK)__"
)
_SIGNATURE = re.compile(r"~{3,5}")
_UNSEEN = re.compile(
    r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u00ad\u200b-\u200f\u202a-\u202e\u2060\ufeff\ufffe\uffff\ufffd]"
)
_POINTER = re.compile(
    r"(?:(?:see )?main articles?|main page|see also|further information)\s*(?::|-).{0,200}\Z", re.IGNORECASE
)
_INDENTED_POINTER = re.compile(
    r"(?:(?:see|main|for)\b.{0,40}\b(?:article|see|page)|see (?:also)?)\b.{0,160}\Z", re.IGNORECASE
)
_NOT_SHOWN = re.compile(r"(?:thumb|right|left|center|none|frame|\d+px)\|")
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
_HOLLOW = re.compile(r"\(\s*(?:[,;:/.–—-]\s*)*\)|\[\s*[,;:]*\s*\]|«\s*»|“\s*”")
_AFTER_OPEN = re.compile(r"([(\[])\s*[,;:]?\s+")
_BEFORE_CLOSE = re.compile(r"(?:\s*[,;:]\s*|\s+)([)\]])")
_BEFORE_STOP = re.compile(r"\s+([,;:.!?])(?=\s|\Z)")
_LEADING_STOP = re.compile(r"[,;:.]\s+")
_TWICE = re.compile(r"([,;])(?:\s*[,;])+")
_SEEN = re.compile(r"[^\W_]")


def prose(text: str) -> list[str]:
    r"""Lines of prose of an article: paragraphs, and items of lists.

    Args:
        text: What ``plain_text`` made of the wikitext.

    Example:
        >>> prose("Lyon ( ) is a city &ndash; a big one.\n== Rivers ==\n* Rhone\n== See also ==\n* Paris")
        ['Lyon is a city – a big one.', 'Rhone;']
    """
    lines = []
    left_out = 0  # level of the section that is left out; 0: none is
    for raw in text.split("\n"):
        line = raw.strip()
        heading = _HEADING.match(line) if line.startswith("=") else None
        if heading:
            level = len(heading[1] or "=")
            if not left_out or level <= left_out:
                name = html.unescape(heading[2] or heading[4]).strip(" :.'").lower()
                left_out = level if name in LEFT_OUT else 0
            line = line[heading.end() :].strip()
        if line and not left_out:
            kept = _line(line)
            if kept:
                lines.append(kept)
    return lines


def _line(line: str) -> str:
    """One line, mended; nothing where it holds no word."""
    if _TABLE_ROW.match(line):
        return ""
    mark = _MARK.match(line)
    if mark:
        line = line[mark.end() :]
    line = _RULE.sub(" ", _SIGNATURE.sub("", _SWITCH.sub("", line)))
    line = tidy(_ENTITY.sub(lambda found: html.unescape(found[0]), line))
    line = _LEADING_STOP.sub("", line, count=1) if line[:1] in ",;:." else line
    if not _SEEN.search(line) or _POINTER.match(line):
        return ""
    if mark and mark[0][0] == ":" and _INDENTED_POINTER.match(line):
        return ""
    if mark and line[-1] not in ".,;:!?…":
        kind = mark[0].strip()[-1]
        line += {"*": ";", "#": ";", ";": ":"}.get(kind, "")
    return line


def tidy(line: str) -> str:
    """Close the gaps that dropped markup left, and make every space a plain one.

    Example:
        >>> tidy("Lyon ( ; , pronounced ) ,  a city ( )")
        'Lyon (pronounced), a city'
    """
    line = " ".join(_UNSEEN.sub("", _NOT_SHOWN.sub("", line)).split())
    if "(" in line or "[" in line or "“" in line or "«" in line:
        line = _HOLLOW.sub("", line)
        line = _BEFORE_CLOSE.sub(r"\1", _AFTER_OPEN.sub(r"\1", _AFTER_OPEN.sub(r"\1", line)))
    line = _BEFORE_STOP.sub(r"\1", _TWICE.sub(r"\1", line))
    return " ".join(line.split())
