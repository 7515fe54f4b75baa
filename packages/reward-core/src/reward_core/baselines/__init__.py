"""Scorers to compare a reward model with, behind the same doors."""
