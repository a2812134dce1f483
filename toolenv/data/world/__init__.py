"""The bundled encyclopaedia: facts, the articles that state them, and questions that need one, two or three of them."""

from __future__ import annotations

from toolenv.data.world.questions import questions
from toolenv.data.world.world import Entity, Fact, World, load_world, split_of

__all__ = ["Entity", "Fact", "World", "load_world", "questions", "split_of"]
