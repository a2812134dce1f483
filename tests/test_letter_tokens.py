"""Formats of public checkpoints in tokens: what is cut, what is plain, what the environment opens a message with."""

from __future__ import annotations

from agents.sampling.base import Generation
from agents.sampling.stops import without_rest
from agents.tokens import ConversationEncoder
from rewards.chat import encode_text
from tests.agents_fixtures import make_tokenizer
from toolenv.formats import ReCall, SearchR1, SimpleTIR, ToRL
from toolenv.messages import Message


def test_tokens_after_what_counts_are_dropped():
    tokenizer = make_tokenizer()
    counted = "```py\nprint(1)\n```"
    ids = tuple(encode_text(tokenizer, counted + "\nCode execution result: 2"))
    said = tokenizer.decode(ids)
    whole = Generation(ids, tuple(-float(n) for n in range(len(ids))), said, "length")
    kept = without_rest(whole, SimpleTIR(), tokenizer)
    assert counted in kept.text
    assert "result" not in kept.text
    assert kept.ids == ids[: len(kept.ids)]
    assert kept.logprobs == whole.logprobs[: len(kept.ids)]
    assert kept.finish_reason == "stop"
    assert without_rest(kept, SimpleTIR(), tokenizer) is kept
    assert without_rest(whole, ToRL(), tokenizer) is whole


def test_a_plain_prompt_goes_without_the_chat_template():
    tokenizer = make_tokenizer()
    prompt = [Message("user", "What is town 1?")]
    plain = ConversationEncoder(tokenizer, ToRL()).encode_prompt(prompt)
    chat = ConversationEncoder(tokenizer, ToRL(plain=False)).encode_prompt(prompt)
    assert chat == ConversationEncoder(tokenizer, SearchR1()).encode_prompt(prompt)
    assert "<|im_start|>" in tokenizer.decode(chat)
    assert "<|im_start|>" not in tokenizer.decode(plain)


def test_the_environment_opens_each_message_of_the_model():
    encoder = ConversationEncoder(make_tokenizer(), ReCall())
    decode = make_tokenizer().decode
    prompt = decode(encoder.encode_prompt([Message("user", "What is town 1?")]))
    observation = decode(encoder.encode_observation([Message("tool", "4")], closed=True))
    assert prompt.endswith("<think>")
    assert observation.endswith("<think>")
    assert "<|im_start|>user\n4" in observation
