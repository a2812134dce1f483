"""Files of questions, as the data sets that search agents are trained and measured on come."""

from __future__ import annotations

from toolenv.data.qa.files import Questions, load_questions
from toolenv.data.qa.gold import tasks_over

__all__ = ["Questions", "load_questions", "tasks_over"]
