"""Encoders: texts to unit vectors."""

from __future__ import annotations

from toolenv.retrieval.encoders.base import Encoder, Kind
from toolenv.retrieval.encoders.transformer import MiniLMEncoder, TransformerEncoder

__all__ = ["Encoder", "Kind", "MiniLMEncoder", "TransformerEncoder"]
