"""Process rewards: what one turn was worth, one small file each."""

from __future__ import annotations

from rewards.process.call_cost import CallCostFn
from rewards.process.execution import ExecutionFn
from rewards.process.gold_passage import GoldPassageFn, GoldPassageReward
from rewards.process.information_gain import InformationGainFn
from rewards.process.invalid_call import InvalidCallFn
from rewards.process.mt_ppo import MTPPOFn
from rewards.process.oracle import OracleFn
from rewards.process.redundancy import RedundancyFn
from rewards.process.schema import SchemaFn
from rewards.process.stepsearch import StepSearchFn

__all__ = [
    "CallCostFn",
    "ExecutionFn",
    "GoldPassageFn",
    "GoldPassageReward",
    "InformationGainFn",
    "InvalidCallFn",
    "MTPPOFn",
    "OracleFn",
    "RedundancyFn",
    "SchemaFn",
    "StepSearchFn",
]
