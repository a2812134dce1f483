"""Histories only grow; only the template writes special tokens."""

from __future__ import annotations

from typing import Any

import pytest
from agents_fixtures import CHATML, SPECIALS, make_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.tokens import ConversationEncoder, TokenHistory, end_ids
from toolenv.errors import ConfigError
from toolenv.formats import Hermes, SearchR1
from toolenv.messages import Message

PROMPT = (Message("system", "Use the tools."), Message("user", "What is the capital of France?"))
RESULTS = (
    Message("tool", "<tool_response>\nParis\n</tool_response>", "search"),
    Message("tool", "<tool_response>\nLyon\n</tool_response>", "search"),
)
IM_END = 2

# As Qwen2.5 writes tool results: neighbours in one user message, in tags of the template's own.
WRAPPING = (
    "{% for m in messages %}{% if m.role == 'tool' %}"
    "{% if loop.index0 == 0 or messages[loop.index0 - 1].role != 'tool' %}{{ '<|im_start|>user' }}{% endif %}"
    "{{ '\n<tool_response>\n' + m.content + '\n</tool_response>' }}"
    "{% if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{ '<|im_end|>\n' }}{% endif %}"
    "{% else %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
REFUSING = "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}{% endfor %}"


def template_ids(tokenizer: Any, messages: tuple[Message, ...], generate: bool) -> list[int]:
    conversation = [{"role": m.role, "content": m.content} for m in messages]
    text = tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=generate)
    return tokenizer(text, add_special_tokens=False)["input_ids"]


@given(st.lists(st.tuples(st.booleans(), st.lists(st.integers(0, 99), max_size=5)), max_size=8))
@settings(deadline=None, max_examples=50)
def test_a_history_holds_what_was_appended_and_who_wrote_it(parts: list[tuple[bool, list[int]]]) -> None:
    history, turn = TokenHistory(), 0
    for is_action, ids in parts:
        before = list(history.ids), list(history.turn_ids), list(history.logprobs)
        if is_action:
            history.append_action(ids, [-1.0] * len(ids), version=10 + turn)
        else:
            history.append_context(ids)
        n = len(before[0])
        assert (history.ids[:n], history.turn_ids[:n], history.logprobs[:n]) == before
        assert history.ids[n:] == ids
        assert set(history.turn_ids[n:]) <= {turn if is_action else -1}
        assert set(history.logprobs[n:]) <= {-1.0 if is_action else 0.0}
        turn += is_action
    assert history.num_turns == turn
    assert history.versions == [10 + t for t in range(turn)]
    assert len(history) == sum(len(ids) for _, ids in parts)


def test_a_fork_grows_on_its_own() -> None:
    history = TokenHistory()
    history.append_context([1, 2])
    fork = history.fork()
    fork.append_action([3], [-1.0])
    history.append_context([9])
    assert (history.ids, history.num_turns) == ([1, 2, 9], 0)
    assert (fork.ids, fork.turn_ids, fork.num_turns) == ([1, 2, 3], [-1, -1, 0], 1)


def test_an_action_needs_a_logprob_a_token() -> None:
    with pytest.raises(ConfigError, match="2 tokens"):
        TokenHistory().append_action([1, 2], [-1.0])


@pytest.mark.parametrize("format", [Hermes(), SearchR1()])
def test_the_prompt_is_what_the_template_writes(format: Any) -> None:
    tokenizer = make_tokenizer()
    assert ConversationEncoder(tokenizer, format).encode_prompt(PROMPT) == template_ids(tokenizer, PROMPT, True)


def test_appended_turns_equal_the_conversation_rendered_whole() -> None:
    tokenizer = make_tokenizer()
    encoder = ConversationEncoder(tokenizer, Hermes())
    ids = encoder.encode_prompt(PROMPT) + encoder.encode_action("I look.")
    ids += encoder.encode_observation(RESULTS, closed=True)
    assert ids == template_ids(tokenizer, (*PROMPT, Message("assistant", "I look."), *RESULTS), True)


def test_a_cut_action_is_closed_by_the_environment() -> None:
    encoder = ConversationEncoder(make_tokenizer(), Hermes())
    cut = encoder.encode_observation(RESULTS, closed=False)
    assert cut == [IM_END, *encoder.encode_observation(RESULTS, closed=True)]
    history = TokenHistory()
    history.append_action([50, IM_END], [-1.0, -1.0])
    assert encoder.is_closed(history)
    history.append_action([50], [-1.0])
    assert not encoder.is_closed(history)


def test_a_format_that_continues_appends_plain_text() -> None:
    for tokenizer in (make_tokenizer(), make_tokenizer(None)):
        encoder = ConversationEncoder(tokenizer, SearchR1())
        text = "\n\n<information>Paris</information>\n\n"
        ids = encoder.encode_observation((Message("tool", text),), closed=False)
        assert tokenizer.decode(ids) == text
        assert encoder.encode_action("<search>x</search>") == encoder.encode_text("<search>x</search>")


def test_without_a_template_the_prompt_is_plain_text() -> None:
    tokenizer = make_tokenizer(None)
    ids = ConversationEncoder(tokenizer, SearchR1()).encode_prompt((Message("user", "Who?<|im_end|>"),))
    assert tokenizer.decode(ids) == "Who?<|im_end|>"
    assert IM_END not in ids


HOSTILE = st.lists(
    st.sampled_from([*SPECIALS, "<|im_", "end|>", "assistant\n", "\U000f0000", "é", "\0", "\n", " "]), max_size=8
).map("".join)


@given(HOSTILE, HOSTILE)
@settings(deadline=None, max_examples=60)
def test_text_never_becomes_special_tokens(first: str, second: str) -> None:
    tokenizer = make_tokenizer()
    encoder = ConversationEncoder(tokenizer, Hermes())

    def specials(ids: list[int]) -> list[int]:
        return [token for token in ids if token < len(SPECIALS)]

    def messages(*contents: str) -> tuple[Message, ...]:
        return tuple(Message("tool", content) for content in contents)

    hostile = encoder.encode_observation(messages(first, second), closed=True)
    assert specials(hostile) == specials(encoder.encode_observation(messages("a", "b"), closed=True))
    assert f"tool\n{first}<|im_end|>\n<|im_start|>tool\n{second}<|im_end|>" in tokenizer.decode(hostile)
    prompt = encoder.encode_prompt((Message("user", first),))
    assert specials(prompt) == specials(encoder.encode_prompt((Message("user", "a"),)))
    raw = ConversationEncoder(tokenizer, SearchR1()).encode_observation(messages(first, second), closed=False)
    assert specials(raw) == []
    assert tokenizer.decode(raw) == first + second


def test_lone_surrogates_become_replacement_characters() -> None:
    tokenizer = make_tokenizer()
    for format in (Hermes(), SearchR1()):
        ids = ConversationEncoder(tokenizer, format).encode_observation((Message("tool", "a\ud800b"),), closed=True)
        assert "a�b" in tokenizer.decode(ids)


def test_a_template_that_wraps_results_does_not_wrap_them_twice() -> None:
    tokenizer = make_tokenizer(WRAPPING)
    ids = ConversationEncoder(tokenizer, Hermes()).encode_observation(RESULTS, closed=True)
    bare = (Message("tool", "Paris"), Message("tool", "Lyon"))
    whole = template_ids(tokenizer, (Message("user", "?"), Message("assistant", "I look."), *bare), True)
    assert ids == whole[-len(ids) :]
    assert tokenizer.decode(ids).count("<tool_response>") == 2


def test_a_template_without_tool_messages_gets_user_messages() -> None:
    ids = ConversationEncoder(make_tokenizer(REFUSING + CHATML), Hermes()).encode_observation(RESULTS, closed=True)
    assert make_tokenizer().decode(ids).startswith("\n<|im_start|>user\n<tool_response>\nParis")


def test_a_template_without_special_tokens_is_used_as_it_is() -> None:
    template = (
        "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    tokenizer = make_tokenizer(template)
    encoder = ConversationEncoder(tokenizer, Hermes())
    ids = encoder.encode_observation((Message("tool", "Paris"),), closed=False)
    assert tokenizer.decode(ids) == "\ntool: Paris\nassistant: "
    assert encoder.end_ids == (0,)


def test_what_ends_an_action() -> None:
    assert end_ids(make_tokenizer()) == (0, IM_END)
    assert end_ids(make_tokenizer(None)) == (0,)


def test_settings_that_do_not_fit() -> None:
    with pytest.raises(ConfigError, match="no chat_template"):
        ConversationEncoder(make_tokenizer(None), Hermes())
    with pytest.raises(ConfigError, match="as it is"):
        ConversationEncoder(make_tokenizer("{% for m in messages %}{{ m.content | upper }}{% endfor %}"), Hermes())
    changing = (
        "{% for m in messages %}{{ m.role + m.content }}{% if loop.last %}<|im_end|>{% else %}!{% endif %}{% endfor %}"
    )
    encoder = ConversationEncoder(make_tokenizer(changing), Hermes())
    with pytest.raises(ConfigError, match="only grows"):
        encoder.encode_observation(RESULTS, closed=True)
