"""Gymnasium environments for language-model agents that use tools.

Importing this package registers ``ToolSearchQA-v0``, ``ToolPythonMath-v0`` and ``ToolFunctionCall-v0``.

Example:
    >>> import gymnasium as gym, toolenv
    >>> env = gym.make("ToolFunctionCall-v0")
    >>> conversation, info = env.reset(seed=0)
    >>> conversation[0].role
    'system'
"""

from __future__ import annotations

import gymnasium as _gymnasium

from toolenv.env import ToolEnv
from toolenv.episode import Episode, Task, TaskSet, Turn, read_episodes, write_episodes
from toolenv.errors import (
    ConfigError,
    DataError,
    InfrastructureError,
    MissingExtraError,
    RetrieverError,
    RewardError,
    SamplerError,
    SandboxError,
    SandboxUnavailable,
    ToolEnvError,
    ToolError,
    ToolTimeout,
)
from toolenv.formats import Format, Hermes, Parsed, ReCall, ReTool, SearchR1, SimpleTIR, ToolRL, ToRL
from toolenv.messages import Message, ToolCall, ToolResult
from toolenv.spaces import Conversation, UnicodeText
from toolenv.tools import Tool, ToolOutput, tool
from toolenv.vector import ToolVectorEnv
from toolenv.wrappers import EpisodeLog, TextObservation, TokenBudget

__version__ = "0.1.0"

__all__ = [
    "ConfigError",
    "Conversation",
    "DataError",
    "Episode",
    "EpisodeLog",
    "Format",
    "Hermes",
    "InfrastructureError",
    "Message",
    "MissingExtraError",
    "Parsed",
    "ReCall",
    "ReTool",
    "RetrieverError",
    "RewardError",
    "SamplerError",
    "SandboxError",
    "SandboxUnavailable",
    "SearchR1",
    "SimpleTIR",
    "Task",
    "TaskSet",
    "TextObservation",
    "ToRL",
    "TokenBudget",
    "Tool",
    "ToolCall",
    "ToolEnv",
    "ToolEnvError",
    "ToolError",
    "ToolOutput",
    "ToolRL",
    "ToolResult",
    "ToolTimeout",
    "ToolVectorEnv",
    "Turn",
    "UnicodeText",
    "read_episodes",
    "tool",
    "write_episodes",
]

for _id, _module, _class, _max_turns in (
    ("ToolSearchQA-v0", "search_qa", "SearchQAEnv", 8),
    ("ToolPythonMath-v0", "python_math", "PythonMathEnv", 6),
    ("ToolFunctionCall-v0", "function_call", "FunctionCallEnv", 6),
):
    _gymnasium.register(
        id=_id,
        entry_point=f"toolenv.envs.{_module}:{_class}",
        vector_entry_point=f"toolenv.envs.{_module}:make_vec",
        kwargs={"max_turns": _max_turns},
    )
