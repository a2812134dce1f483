"""Chat templates and plain text: what a tokenizer's template may write, and what is only text.

Only a template may write special tokens. Text of a model or a tool that holds ``<|im_end|>`` is encoded as the
characters it consists of, so that it cannot open or close a turn. Lone surrogates, which no tokenizer takes, become
U+FFFD.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Sequence
from typing import Any

from toolenv.errors import ConfigError
from toolenv.messages import Message

SAMPLE_ACTION = "(what the model wrote)"
"""Stands for an action where a template is tried out."""


_encoding = threading.Lock()
"""A tokenizer holds the settings of its last call: one thread would read special tokens in what another calls text."""


def encode_text(tokenizer: Any, text: str, *, opening: bool = False) -> list[int]:
    """Tokens of plain text: no special token, whatever the text says.

    Args:
        tokenizer: A transformers tokenizer; threads may share it.
        text: Any string.
        opening: Add what the tokenizer puts before the first text, such as a token for its beginning.
    """
    text = without_surrogates(text)
    with _encoding:
        encoded = tokenizer(text, add_special_tokens=opening, split_special_tokens=True, verbose=False)
    return list(encoded["input_ids"])


def encode_markup(tokenizer: Any, text: str) -> list[int]:
    """Tokens of a template's own text, whose special tokens count."""
    with _encoding:
        return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def check_text_stays_text(tokenizer: Any) -> None:
    """Refuse a tokenizer that makes special tokens of plain text.

    Raises:
        ConfigError: It does.
    """
    special = special_tokens(tokenizer)
    found = set(encode_text(tokenizer, "".join(special))) & set(special.values())
    if found:
        names = sorted(text for text, token in special.items() if token in found)
        raise ConfigError(
            f"the tokenizer reads {names} in plain text as special tokens even with split_special_tokens=True, so "
            "that a tool result could open a turn of its own; use a fast tokenizer"
        )


def special_tokens(tokenizer: Any) -> dict[str, int]:
    """Text and id of each special token."""
    added = {token.content: int(i) for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    named = dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))
    return {text: token for text, token in {**named, **added}.items() if text}


def any_of(literals: Iterable[str]) -> re.Pattern[str] | None:
    """Pattern whose one group is any of the literals, the longest first; ``None`` where there is none."""
    ordered = sorted(literals, key=len, reverse=True)
    return re.compile(f"({'|'.join(map(re.escape, ordered))})") if ordered else None


def render_template(tokenizer: Any, messages: Sequence[Message], generate: bool) -> str:
    """Text of a conversation as the tokenizer's chat template writes it.

    Args:
        tokenizer: A transformers tokenizer with a chat template.
        messages: The conversation.
        generate: Whether to end where the assistant starts to write.
    """
    conversation = [{"role": message.role, "content": message.content} for message in messages]
    text: str = tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=generate)
    return text


def find_tool_role(tokenizer: Any) -> str:
    """Role under which tool results are rendered: ``"tool"`` or ``"user"``.

    Some templates know no tool messages, and some wrap them in tags that the format has written already; both are
    given user messages, several results in one.
    """
    conversation = [Message("user", "?"), Message("assistant", SAMPLE_ACTION), Message("tool", "result")]
    try:
        wrapped = render_template(tokenizer, conversation, False).partition(SAMPLE_ACTION)[2]
    except template_errors():
        return "user"
    return "user" if "<tool_response>" in wrapped or "result" not in wrapped else "tool"


def as_roles(messages: Sequence[Message], tool_role: str) -> list[Message]:
    """The messages, with tool results as user messages, neighbours joined, where the template wants that."""
    if tool_role == "tool":
        return list(messages)
    joined: list[Message] = []
    previous = ""
    for message in messages:
        if message.role == previous == "tool":
            joined[-1] = Message("user", f"{joined[-1].content}\n{message.content}")
        else:
            joined.append(Message("user", message.content) if message.role == "tool" else message)
        previous = message.role
    return joined


def template_errors() -> tuple[type[Exception], ...]:
    """What a chat template raises for a role that it does not know."""
    from jinja2.exceptions import TemplateError

    return (TemplateError, ValueError, KeyError)


def without_surrogates(text: str) -> str:
    """The text, with lone surrogates replaced."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
