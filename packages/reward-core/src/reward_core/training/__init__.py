"""Training of reward models: pairs, losses, initialisation, a small loop."""

from .initialise import initialise_from_scratch
from .loop import TrainingConfig, accuracy, group_rewards, train
from .pairs import RankedGroup, pairs_from_ranking, pairwise_accuracy
from .pretraining import CaptionedPicture, pretraining_loss
from .ranking_loss import ranking_loss

__all__ = [
    "CaptionedPicture",
    "RankedGroup",
    "TrainingConfig",
    "accuracy",
    "group_rewards",
    "initialise_from_scratch",
    "pairs_from_ranking",
    "pairwise_accuracy",
    "pretraining_loss",
    "ranking_loss",
    "train",
]
