"""Rewards that plug into any tool environment: plain functions of the record, and their Gymnasium wrappers."""

from __future__ import annotations

from rewards.base import RewardFn, RewardTerms, TurnView, score_views
from rewards.check import check_reward
from rewards.judge import JudgeFn, JudgeReward
from rewards.judge_pairs import PairJudge
from rewards.orm import ORMFn, ORMReward
from rewards.otc import OTCFn, OTCReward
from rewards.outcome import OutcomeFn, OutcomeReward
from rewards.process import (
    CallCostFn,
    ExecutionFn,
    GoldPassageFn,
    GoldPassageReward,
    InformationGainFn,
    InvalidCallFn,
    MTPPOFn,
    OracleFn,
    RedundancyFn,
    SchemaFn,
    StepSearchFn,
)
from rewards.scoring import HFScorer, Scorer
from rewards.search_r1 import SearchR1Fn, SearchR1Reward
from rewards.shaping import Clip, Gate, PotentialDifference, normalize_then_sum
from rewards.tool import ToolFn, ToolReward
from rewards.toolrl import ToolRLScore, score_response
from rewards.toolrm import ToolRMFn, ToolRMReward, tool_conversation
from rewards.trm import TRMFn, TRMReward
from rewards.validate import TaskFailure, TaskReport, validate_tasks
from rewards.wrappers import RewardSum, RewardWrapper, VectorRewardWrapper, score_episodes

__all__ = [
    "CallCostFn",
    "Clip",
    "ExecutionFn",
    "Gate",
    "GoldPassageFn",
    "GoldPassageReward",
    "HFScorer",
    "InformationGainFn",
    "InvalidCallFn",
    "JudgeFn",
    "JudgeReward",
    "MTPPOFn",
    "ORMFn",
    "ORMReward",
    "OTCFn",
    "OTCReward",
    "OracleFn",
    "OutcomeFn",
    "OutcomeReward",
    "PairJudge",
    "PotentialDifference",
    "RedundancyFn",
    "RewardFn",
    "RewardSum",
    "RewardTerms",
    "RewardWrapper",
    "SchemaFn",
    "Scorer",
    "SearchR1Fn",
    "SearchR1Reward",
    "StepSearchFn",
    "TRMFn",
    "TRMReward",
    "TaskFailure",
    "TaskReport",
    "ToolFn",
    "ToolRLScore",
    "ToolRMFn",
    "ToolRMReward",
    "ToolReward",
    "TurnView",
    "VectorRewardWrapper",
    "check_reward",
    "normalize_then_sum",
    "score_episodes",
    "score_response",
    "score_views",
    "tool_conversation",
    "validate_tasks",
]
