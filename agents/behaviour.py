"""What a policy does with its tools: which it calls, what it repeats, and what comes to nothing."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence

from toolenv.episode import Episode, Turn
from toolenv.messages import ToolCall


def behaviour_metrics(episodes: Sequence[Episode]) -> dict[str, float]:
    """How the calls of episodes went. A share of calls is left out where there is no call.

    Args:
        episodes: At least one.

    Returns:
        ``calls/tool/NAME`` and ``calls/unknown_tool``: calls an episode. ``calls/repeated``, ``calls/invalid`` and
        ``calls/failed``: shares of the calls that stand in their episode before, that no tool ran for, and whose tool
        failed. ``no_call_episodes``: share of the episodes without a call.

    Example:
        >>> from toolenv import Task, ToolResult, Turn
        >>> call = ToolCall("search", {"query": "x"})
        >>> turns = [Turn(i, "...", (call,), (ToolResult(call, "found"),)) for i in range(2)]
        >>> busy, idle = (Episode("e", Task("t", "?"), "hermes", (), tuple(played)) for played in (turns, ()))
        >>> metrics = behaviour_metrics([busy, idle])
        >>> metrics["calls/tool/search"], metrics["calls/repeated"], metrics["no_call_episodes"]
        (1.0, 0.5, 0.5)
    """
    results = [result for episode in episodes for turn in episode.turns for result in turn.results]
    tools = Counter(result.call.name for result in results if result.error != "unknown_tool")
    written = sum(episode.num_calls for episode in episodes)
    metrics = {f"calls/tool/{name}": count / len(episodes) for name, count in sorted(tools.items())}
    metrics["calls/unknown_tool"] = sum(result.error == "unknown_tool" for result in results) / len(episodes)
    if written:
        metrics["calls/repeated"] = sum(map(repeated_calls, episodes)) / written
        metrics["calls/invalid"] = sum(not result.executed for result in results) / written
        metrics["calls/failed"] = sum(result.executed and result.error is not None for result in results) / written
    metrics["no_call_episodes"] = sum(episode.num_calls == 0 for episode in episodes) / len(episodes)
    return metrics


def repeated_calls(episode: Episode) -> int:
    """Calls whose tool and arguments stand in the episode before."""
    calls = [_key(call) for turn in episode.turns for call in turn.calls]
    return len(calls) - len(set(calls))


def failed(turn: Turn) -> bool:
    """Whether a turn could not be read, or a call of it failed."""
    return turn.error is not None or any(result.error is not None for result in turn.results)


def _key(call: ToolCall) -> str:
    return json.dumps([call.name, call.arguments], sort_keys=True)
