"""Experts: networks trained on the real data, whose recorded trajectories methods and influence read."""

from jaxdd.experts.store import Expert, ExpertStore, describe
from jaxdd.experts.timeline import ExpertsConfig, Timeline, check_length
from jaxdd.experts.training import train_experts
from jaxdd.experts.trajectories import Trajectories, Window

__all__ = [
    "Expert",
    "ExpertStore",
    "ExpertsConfig",
    "Timeline",
    "Trajectories",
    "Window",
    "check_length",
    "describe",
    "train_experts",
]
