"""Mathematical tasks: generated ones, and loaders."""

from toolenv.data.math.files import load_math_jsonl
from toolenv.data.math.tasks import math_tasks

__all__ = ["load_math_jsonl", "math_tasks"]
