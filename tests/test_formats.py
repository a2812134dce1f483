"""Formats: what they write they read back, and what they read is what their protocols say."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolenv import Hermes, ReCall, ReTool, SearchR1, SimpleTIR, Task, ToolCall, ToolResult, ToolRL, ToRL
from toolenv.formats import FORMATS, last_boxed
from toolenv.formats.base import without_thoughts

pytestmark = pytest.mark.core

plain = st.text(st.characters(exclude_characters="<>`{}\\", exclude_categories=("Cs", "Cc", "Z")), min_size=1)


@settings(max_examples=60, deadline=None)
@given(text=plain, number=st.integers(), name=st.sampled_from(["hermes", "toolrl", "recall"]))
def test_written_calls_are_read_back(text, number, name):
    form = FORMATS[name]()
    call = ToolCall("f", {"a": text, "b": number, "c": [text, {"d": None}]})
    assert form.parse(form.write_call(call)).calls == (call,)


@settings(max_examples=60, deadline=None)
@given(text=plain)
def test_written_queries_programs_and_answers_are_read_back(text):
    assert SearchR1().parse(SearchR1().write_call(ToolCall("search", {"query": text}))).calls[0].arguments == {
        "query": text
    }
    assert ToRL().parse(ToRL().write_call(ToolCall("python", {"code": text}))).calls[0].arguments == {
        "code": text + "\n"
    }
    for form in (SimpleTIR(), ReTool()):
        call = ToolCall("python", {"code": text})
        assert form.parse(form.write_call(call)).calls == (call,)
        assert form.cut(form.write_call(call) + "?") == form.write_call(call)
    for form in (Hermes(), SearchR1(), ToRL(), ToRL(lenient=False), ToolRL(), SimpleTIR(), ReTool(), ReCall()):
        assert form.parse(form.write_answer(text)).answer == text


@pytest.mark.parametrize(
    ("action", "query", "answer"),
    [
        ("<search>a</search><search>b</search>", "a", None),
        ("<answer>x</answer> <search>a</search>", None, "x"),
        ("<think>t</think><search> a </search> <answer>x</answer>", "a", None),
        ("<answer>x <search>a</search>", "a", None),
        ("<search>a <answer>x</answer>", None, "x"),
        ("<answer>x</answer><answer>y</answer>", None, "x"),
    ],
)
def test_search_r1_takes_the_first_complete_tag_of_the_text_that_counts(action, query, answer):
    parsed = SearchR1().parse(action)
    assert parsed.answer == answer
    assert [c.arguments["query"] for c in parsed.calls] == ([query] if query else [])


def test_torl_runs_the_last_block_and_a_later_box_answers():
    two = "```python\na\n```\ntext ```python\nb\n```\n```output"
    assert ToRL().parse(two).calls[0].arguments["code"] == "b\n"
    assert ToRL().parse(two + " so \\boxed{\\frac{1}{2}}").answer == "\\frac{1}{2}"
    assert ToRL().parse("\\boxed{1} ```python\nb\n```").calls
    assert ToRL().parse("```python\nnever closed").error


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "f", "arguments": {"a": 1}}',
        '```json\n{"name": "f", "arguments": {"a": 1}}\n```',
    ],
)
def test_hermes_is_lenient_only_where_it_says_so(text):
    loose = Hermes().parse(text)
    assert loose.calls == (ToolCall("f", {"a": 1}),)
    assert loose.lenient
    assert not Hermes(lenient=False).parse(text).calls
    assert not Hermes().parse("I would call " + text).calls


@pytest.mark.parametrize(
    ("action", "reason"),
    [
        ("<tool_call>{</tool_call>", "not valid JSON"),
        ("<tool_call>3</tool_call>", 'not an object with a "name"'),
        ('<tool_call>{"name": "f", "arguments": [1]}</tool_call>', "must be an object"),
        ("<tool_call>{}", "not closed"),
    ],
)
def test_hermes_says_what_is_wrong_with_a_call(action, reason):
    parsed = Hermes().parse(action)
    assert reason in parsed.error
    assert parsed.calls == ()


@pytest.mark.parametrize(
    ("action", "left"),
    [
        ("a<think>b</think>c<think>d</think>e", "ace"),
        ("<think>b", ""),
        ("a<think>b<think>c</think>d", "ad"),
        ("<answer><think>x</think></answer>", "<answer><think>x</think></answer>"),
        ('<tool_call>{"a": "<think>"}</tool_call><think>b</think>', '<tool_call>{"a": "<think>"}</tool_call>'),
        ("<think><tool_call></think>x", "x"),
        ("<answer>open <think>b</think>", "<answer>open <think>b</think>"),
        ("no tags", "no tags"),
    ],
)
def test_a_thought_is_left_out_and_what_a_call_or_an_answer_holds_is_not(action, left):
    assert without_thoughts(action) == left


def test_thoughts_are_left_out_in_linear_time():
    for piece in ("<think>", "</think>", "<answer>", "<think></think>", "<answer></answer>"):
        without_thoughts(piece * 200_000 + "<think>")


@given(text=st.text(st.sampled_from("\\boxed{}a"), max_size=60))
def test_a_box_has_balanced_braces(text):
    found = last_boxed(text)
    if found is not None:
        assert found.count("{") == found.count("}")


def test_prompts_hold_the_question_and_templates_can_be_files(tmp_path):
    task = Task(id="t", prompt="Why $100?")
    schema = {"name": "f", "description": "d", "parameters": {"properties": {"a": {"type": "string"}}}}
    for form in (make() for make in FORMATS.values()):
        assert "Why $100?" in form.prompt("Do it.", task, [schema])[-1].content
    path = tmp_path / "prompt.txt"
    path.write_text("Q: $question")
    assert SearchR1(template=path).prompt("", task, [])[0].content == "Q: Why $100?"


def test_results_are_shown_as_each_protocol_shows_them():
    result = ToolResult(ToolCall("search", {}), "text")
    assert Hermes().render([result])[0].content == "<tool_response>\ntext\n</tool_response>"
    assert SearchR1().render([result])[0].content == "\n\n<information>text</information>\n\n"
    assert ToRL().render([result])[0].content == "\n```output\ntext\n```\n"
    assert ToolRL().render([result])[0].content == (
        "<obs> You have made the tool call search. Execution returns: text </obs>"
    )
