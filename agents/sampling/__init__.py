"""Samplers: where actions come from."""

from agents.sampling.base import Generation, Sampler, SamplingParams, SyncedSampler
from agents.sampling.scripted import FixedScript, ScriptedAgent

__all__ = ["FixedScript", "Generation", "Sampler", "SamplingParams", "ScriptedAgent", "SyncedSampler"]
