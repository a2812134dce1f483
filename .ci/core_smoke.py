"""Without any extra: the packages import, an environment plays, and what is missing is one clear line."""

from __future__ import annotations

import importlib.util
import sys

import gymnasium as gym

import rewards
import toolenv
from toolenv.extras import require

for module in ("torch", "faiss", "docker", "transformers"):
    if importlib.util.find_spec(module) is not None:
        sys.exit(f"{module} is installed; this job must run with the core dependencies alone")

for env_id in ("ToolFunctionCall-v0", "ToolPythonMath-v0"):
    env = gym.make(env_id)
    observation, info = env.reset(seed=1)
    env.action_space.seed(1)
    ended = False
    while not ended:
        observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
        ended = terminated or truncated
    env.close()
    print(f"{env_id}: {info['task_id']} played, ended by {info.get('reason', 'the step limit')}")

try:
    require("faiss", "search")
except toolenv.MissingExtraError as error:
    print(f"as it should: {error}")
else:
    sys.exit("faiss was found where it cannot be")
print(f"toolenv from {toolenv.__file__}, rewards from {rewards.__file__}")
