"""Training of reward models from rankings: pairs, loss, initialisation, a small loop."""

from .initialise import initialise_from_scratch
from .loop import TrainingConfig, accuracy, group_rewards, train
from .pairs import RankedGroup, pairs_from_ranking, pairwise_accuracy
from .ranking_loss import ranking_loss

__all__ = [
    "RankedGroup",
    "TrainingConfig",
    "accuracy",
    "group_rewards",
    "initialise_from_scratch",
    "pairs_from_ranking",
    "pairwise_accuracy",
    "ranking_loss",
    "train",
]
