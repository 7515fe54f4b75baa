"""Training of reward models: pairs, losses, initialisation, a small loop."""

from .caption_pretraining import CaptionedPicture, caption_loss
from .initialise import initialise_from_scratch
from .loop import TrainingConfig, accuracy, group_rewards, train
from .pairs import RankedGroup, pairs_from_ranking, pairwise_accuracy
from .patch_pretraining import AnnotatedPicture, PatchReader, patch_loss
from .ranking_loss import ranking_loss

__all__ = [
    "AnnotatedPicture",
    "CaptionedPicture",
    "PatchReader",
    "RankedGroup",
    "TrainingConfig",
    "accuracy",
    "caption_loss",
    "group_rewards",
    "initialise_from_scratch",
    "pairs_from_ranking",
    "pairwise_accuracy",
    "patch_loss",
    "ranking_loss",
    "train",
]
