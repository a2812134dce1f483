"""Tokens of an episode: written once, when they are made, and never rebuilt from text.

``TokenHistory`` is append-only. ``ConversationEncoder`` makes the tokens that the environment adds: the prompt, and
what stands between one sampled action and the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from rewards.chat import (
    SAMPLE_ACTION,
    any_of,
    as_roles,
    check_text_stays_text,
    encode_markup,
    encode_text,
    find_tool_role,
    render_template,
    special_tokens,
    without_surrogates,
)
from toolenv.errors import ConfigError
from toolenv.formats import Format, letter
from toolenv.messages import Message

CONTEXT = -1
"""Turn id of a token that was not sampled."""


class TokenHistory:
    """The tokens of one episode so far, with who wrote each.

    Attributes:
        ids: Token ids, ``(L,)``.
        turn_ids: The turn whose action holds the token, ``-1`` for all other tokens, ``(L,)``.
        logprobs: Log-probability with which the token was sampled, 0.0 where it was not, ``(L,)``.
        versions: Version of the weights that sampled each turn, ``(T,)``.

    Example:
        >>> history = TokenHistory()
        >>> history.append_context([5, 6])
        >>> history.append_action([7], [-0.5], version=3)
        >>> history.turn_ids, history.num_turns, history.versions
        ([-1, -1, 0], 1, [3])
    """

    __slots__ = ("__weakref__", "ids", "logprobs", "turn_ids", "versions")

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.turn_ids: list[int] = []
        self.logprobs: list[float] = []
        self.versions: list[int] = []

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def num_turns(self) -> int:
        """How many actions were appended."""
        return len(self.versions)

    def append_context(self, ids: Sequence[int]) -> None:
        """Append tokens that the policy did not sample."""
        self.ids.extend(ids)
        self.turn_ids.extend([CONTEXT] * len(ids))
        self.logprobs.extend([0.0] * len(ids))

    def append_action(self, ids: Sequence[int], logprobs: Sequence[float], version: int = 0) -> None:
        """Append the tokens of one turn, as they were sampled.

        Args:
            ids: Sampled token ids.
            logprobs: One log-probability a token.
            version: Version of the weights that sampled them.

        Raises:
            ConfigError: Not one log-probability a token.
        """
        if len(ids) != len(logprobs):
            raise ConfigError(f"an action of {len(ids)} tokens needs as many log-probabilities; got {len(logprobs)}")
        self.ids.extend(ids)
        self.turn_ids.extend([self.num_turns] * len(ids))
        self.logprobs.extend(logprobs)
        self.versions.append(version)

    def fork(self) -> TokenHistory:
        """A copy that grows on its own."""
        copy = TokenHistory()
        copy.ids, copy.turn_ids = list(self.ids), list(self.turn_ids)
        copy.logprobs, copy.versions = list(self.logprobs), list(self.versions)
        return copy

    def __repr__(self) -> str:
        return f"TokenHistory({len(self)} tokens, {self.num_turns} turns)"


class Encoder(Protocol):
    """What a rollout needs of whoever writes the tokens that the environment adds."""

    @property
    def format(self) -> Format:
        """How the model speaks."""
        ...

    def encode_prompt(self, messages: Sequence[Message]) -> list[int]:
        """Tokens of the first messages, up to where the policy starts to write."""
        ...

    def encode_observation(self, messages: Sequence[Message], *, closed: bool) -> list[int]:
        """Tokens between a sampled action and the next one.

        Args:
            messages: What the environment replied.
            closed: What ``is_closed`` says of the history.
        """
        ...

    def is_closed(self, history: TokenHistory) -> bool:
        """Whether the last action ended its message itself."""
        ...


class ConversationEncoder:
    """Makes the tokens that the environment adds to a history.

    Where the format's observations stand in messages of their own, the tokenizer's chat template writes prompt and
    observations; where the format goes on in the model's own message (``format.continues``), the prompt is one user
    message (plain text for a tokenizer without a template, and for a format that is ``plain``) and observations are
    appended as plain text. What the format's messages of the model start with (``opening``) is appended to both.

    Only the template may write special tokens: a tool result that holds ``<|im_end|>`` is encoded as the characters
    it consists of. Lone surrogates, which no tokenizer takes, become U+FFFD.

    Args:
        tokenizer: A transformers tokenizer.
        format: How the model speaks.

    Attributes:
        end_ids: Tokens that end an action, as ``end_ids`` finds them.

    Raises:
        ConfigError: The format needs a chat template and there is none, the template cannot be used, or the tokenizer
            makes special tokens of plain text.
    """

    def __init__(self, tokenizer: Any, format: Format) -> None:
        self.tokenizer = tokenizer
        self.format = format
        self._special = special_tokens(tokenizer)
        self._literals = any_of(self._special)
        check_text_stays_text(tokenizer)
        if not (tokenizer.chat_template or format.continues):
            raise ConfigError(
                f"format {format.name!r} speaks in messages, and the tokenizer has no chat_template; set one, or use "
                "a format that continues, such as 'search_r1'"
            )
        self._closing, self._closing_id = turn_closing(tokenizer) if tokenizer.chat_template else ("", None)
        self._tool_role = "user" if format.continues else letter.tool_role(format) or find_tool_role(tokenizer)
        # What the environment writes of the model's own message is markup, as the template's start of it is.
        self._opening = encode_markup(tokenizer, letter.opening(format)) if letter.opening(format) else []
        self.end_ids = end_ids(tokenizer)

    def encode_prompt(self, messages: Sequence[Message]) -> list[int]:
        """Tokens of the first messages, up to where the policy starts to write."""
        if self.tokenizer.chat_template and not letter.is_plain(self.format):
            safe, mark = self._shield(messages)
            return self._encode_template(self._render(safe, generate=True), mark) + self._opening
        return encode_text(self.tokenizer, "\n".join(message.content for message in messages), opening=True)

    def encode_observation(self, messages: Sequence[Message], *, closed: bool) -> list[int]:
        """Tokens between a sampled action and the next one.

        Args:
            messages: What the environment replied.
            closed: Whether the action wrote the end of its message itself (``is_closed``). Where it was cut, these
                tokens start with that end; a format that continues has no such end.
        """
        if self.format.continues:
            return self.encode_text("".join(message.content for message in messages))
        safe, mark = self._shield(messages)
        before = [Message("user", "?"), Message("assistant", SAMPLE_ACTION)]
        tail = self._render([*before, *safe], generate=True).partition(SAMPLE_ACTION)[2]
        if not tail.startswith(self._closing):
            raise ConfigError(
                f"the chat template ends a turn with {self._closing!r} where it is the last, and with {tail[:40]!r} "
                "where a tool result follows; use a template whose text only grows"
            )
        return self._encode_template(tail[len(self._closing) :] if closed else tail, mark) + self._opening

    def encode_text(self, text: str) -> list[int]:
        """Tokens of plain text: no special token, whatever the text says."""
        return encode_text(self.tokenizer, text)

    def encode_action(self, text: str) -> list[int]:
        """Tokens of an action that was written as text, by an expert say: a sampled one has its ids already.

        It is closed as the template closes a turn, except where the format goes on in one message.
        """
        ids = self.encode_text(text)
        return ids if self.format.continues else ids + self._encode_template(self._closing, "")

    def is_closed(self, history: TokenHistory) -> bool:
        """Whether the last token is the one that the template ends a turn with."""
        return bool(history.ids) and history.ids[-1] == self._closing_id

    # Inside --------------------------------------------------------------------------------------------------------

    def _render(self, messages: Sequence[Message], generate: bool) -> str:
        """Text of the template."""
        return render_template(self.tokenizer, as_roles(messages, self._tool_role), generate)

    def _shield(self, messages: Sequence[Message]) -> tuple[list[Message], str]:
        """Messages whose special-token texts are broken by a mark; the mark is empty where none was needed."""
        contents = [without_surrogates(message.content) for message in messages]
        mark = ""
        if self._literals is not None and any(self._literals.search(content) for content in contents):
            mark = _unused_character("".join(contents))
            contents = [self._literals.sub(lambda m: m[0][0] + mark + m[0][1:], content) for content in contents]
        return [Message(m.role, content) for m, content in zip(messages, contents, strict=True)], mark

    def _encode_template(self, text: str, mark: str) -> list[int]:
        """Tokens of rendered text, whose special tokens are the template's own but for those that hold the mark."""
        if not mark or self._literals is None:
            return encode_markup(self.tokenizer, text)
        ids: list[int] = []
        for part in self._literals.split(text):
            ids += [self._special[part]] if part in self._special else self.encode_text(part.replace(mark, ""))
        return ids


def turn_closing(tokenizer: Any) -> tuple[str, int | None]:
    """How the chat template ends an assistant's message: the text up to its special token, and that token.

    Where it uses no special token, the text is empty and the token ``None``.

    Raises:
        ConfigError: The template does not write an assistant's message as it is.
    """
    text = render_template(tokenizer, [Message("user", "?"), Message("assistant", SAMPLE_ACTION)], False)
    if text.count(SAMPLE_ACTION) != 1:
        raise ConfigError(f"the chat template does not keep an assistant's message as it is: it writes {text!r}")
    tail = text.partition(SAMPLE_ACTION)[2]
    special = special_tokens(tokenizer)
    literals = any_of(special)
    match = literals.search(tail) if literals is not None else None
    return (tail[: match.end()], special[match[0]]) if match else ("", None)


def end_ids(tokenizer: Any) -> tuple[int, ...]:
    """Tokens after which nothing more is sampled: end of sequence, and the chat template's end of a turn."""
    closing = turn_closing(tokenizer)[1] if tokenizer.chat_template else None
    return tuple(sorted({token for token in (tokenizer.eos_token_id, closing) if token is not None}))


def _unused_character(text: str) -> str:
    """A private-use character that the text does not hold."""
    return next(chr(code) for code in range(0xF0000, 0x10FFFE) if chr(code) not in text)
