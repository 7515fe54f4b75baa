"""Rewards as functions of images, with and without gradient."""

from .rewards import AnyReward, Reward, Rewards, load_rewards

__all__ = ["AnyReward", "Reward", "Rewards", "load_rewards"]
