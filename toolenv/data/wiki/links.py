"""What a reader sees of links, of raised text and of the few templates that hold words of a sentence."""

from __future__ import annotations

import re

_HIDDEN = frozenset(
    {"image", "file", "category", "media", "template", "special", "user", "user talk", "talk", "mediawiki"}
)
"""Namespaces whose links show no words of the article."""
_LANGUAGE = re.compile(r"(?:[a-z]{2,3}|simple|tokipona|zh-min-nan|roa-rup|fiu-vro|map-bms|be-x-old|zh-[a-z]{2,4})\Z")
_PREFIX = re.compile(r"(?:[a-z]{1,3}|wikt|wiktionary|wikipedia|wikisource|wikibooks|wikiquote|commons|meta|simple)\Z")
_URL = re.compile(r"(?:https?|ftp)://\S*\s*", re.IGNORECASE)
_RAISED = str.maketrans("0123456789+-−n", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻ⁿ")

_LAST = frozenset({"lang", "unicode", "polytonic", "nowrap", "nobr", "transl", "transliteration", "small", "big", "ar"})
"""Templates that show their last argument."""
_FIRST = frozenset({"nihongo", "abbr", "nihongo2"})
"""Templates that show their first argument."""


def link_text(inside: str) -> str:
    """What a reader sees of ``[[inside]]``; nothing of images, categories and links to other languages.

    Example:
        >>> [link_text(inside) for inside in ("Lyon", "Lyon|the city", "fr:Lyon", "Image:Lyon.jpg|thumb|A view")]
        ['Lyon', 'the city', '', '']
    """
    target, piped, label = inside.partition("|")
    target = target.strip()
    shown = target.startswith(":")
    target = target.lstrip(": ")
    prefix, colon, rest = target.partition(":")
    prefix = prefix.strip()
    if colon and not shown and prefix.lower() in _HIDDEN:
        return ""
    if piped:
        label = label.rpartition("|")[2].strip("\n") if "|" in label else label
        return label or rest.strip() or target
    if colon and rest.startswith("//"):
        return _URL.sub("", target)
    if colon and not rest.startswith(" "):
        if not shown and _LANGUAGE.match(prefix):
            return ""
        if _PREFIX.match(prefix.lower()):
            return rest
    return target.replace("_", " ")


def raised(text: str) -> str:
    """Raised text, so that a power stays one.

    Example:
        >>> "10" + raised("-5"), "1" + raised("st"), "x" + raised("k")
        ('10⁻⁵', '1st', 'x^k')
    """
    text = text.replace("''", "").strip()
    if all(ord(letter) in _RAISED for letter in text):
        return text.translate(_RAISED)
    return text if len(text) > 1 and text.isalpha() else f"^{text}"


def template_text(inside: str) -> str:
    """What is kept of ``{{inside}}``: the words of the few templates that stand in sentences, else nothing.

    Example:
        >>> template_text("lang|fr|Lyon"), template_text("Infobox city|name=Lyon"), template_text("convert|5|km|mi")
        ('Lyon', '', '5 km')
    """
    name, *arguments = inside.split("|")
    name = name.strip().lower().replace("_", " ")
    values = [value.strip() for value in arguments if "=" not in value]
    if not values:
        return ""
    if name in _LAST or name.startswith("lang-"):
        return values[-1]
    if name in _FIRST:
        return values[0]
    if name in ("convert", "cvt"):
        return " ".join(values[:2])
    return ""
