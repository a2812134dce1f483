"""Judges for tests: a model that a function plays, and a server that a function plays."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from tests.servers import Request, Response, Served, serve

MARKER = re.compile(r"^=== RECORD (\w{16}) (BEGINS|ENDS) ===$", re.MULTILINE)


def read_record(text: str) -> tuple[str, list[dict[str, Any]]]:
    """The code and the lines of the record in a question."""
    begin, end = MARKER.finditer(text)
    assert (begin[2], end[2]) == ("BEGINS", "ENDS")
    assert begin[1] == end[1]
    return begin[1], [json.loads(line) for line in text[begin.end() + 1 : end.start() - 1].split("\n")]


def verdict(text: str, **labels: Any) -> str:
    return json.dumps({"record": read_record(text)[0], "reason": "because", **labels})


def expert(text: str, seed: int = 0) -> str:
    """A call is necessary if no earlier message of the agent holds its arguments, and good if it brought no error."""
    *messages, call = read_record(text)[1]
    earlier = [m["content"] for m in messages if m.get("role") == "assistant" and m["message"] < call["message"]]
    necessity = int(not any(call["arguments"] in action for action in earlier))
    return verdict(text, necessity=necessity, quality=int(call["error"] is None))


@dataclass
class FakeChat:
    """Answers by a function of the question and the seed, and keeps what it was asked."""

    answer: Callable[[str, int], str | None] = expert
    temperature: float = 0.0
    asked: list[str] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)

    @property
    def settings(self):
        return {"model": "fake", "temperature": self.temperature}

    def complete(self, prompts: Sequence[Any], *, seeds: Sequence[int]) -> list[str | None]:
        texts = [message.content for (message,) in prompts]
        self.asked += texts
        self.seeds += seeds
        return [self.answer(text, seed) for text, seed in zip(texts, seeds, strict=True)]


def chat_reply(content: str | None) -> str:
    return json.dumps({"choices": [{"index": 0, "message": {"role": "assistant", "content": content}}]})


def question(request: Request) -> str:
    return request.body["messages"][0]["content"]


def expert_reply(request: Request) -> Response:
    return 200, {}, chat_reply(expert(question(request)))


@contextmanager
def serve_chat(play: Callable[[Request], Response] = expert_reply) -> Iterator[Served]:
    """A judge's server, by the address that it is given by."""
    with serve(play) as served:
        yield replace(served, url=f"{served.url}/v1")
