"""Wikipedia: dumps of MediaWiki read, cleaned of markup, and cut into passages of a hundred words."""

from toolenv.data.wiki.dump import WikiPage, read_dump
from toolenv.data.wiki.markup import plain_text
from toolenv.data.wiki.passages import WORDS, cut, is_article
from toolenv.data.wiki.prose import prose

__all__ = ["WORDS", "WikiPage", "cut", "is_article", "plain_text", "prose", "read_dump"]
