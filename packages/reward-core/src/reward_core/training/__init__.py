"""Train reward models on rankings; pre-train models that start from random weights."""

from .caption_pretraining import CaptionedImage, caption_loss
from .config import PRESETS, TrainingConfig, load_settings
from .initialize import initialize_from_scratch
from .pairs import pairs_from_ranking, pairwise_accuracy
from .patch_pretraining import AnnotatedImage, PatchReader, patch_loss
from .pretraining_loop import PretrainingConfig, pretrain
from .ranking_loss import ranking_loss
from .starting_model import starting_model
from .trainer import Trainer

__all__ = [
    "PRESETS",
    "AnnotatedImage",
    "CaptionedImage",
    "PatchReader",
    "PretrainingConfig",
    "Trainer",
    "TrainingConfig",
    "caption_loss",
    "initialize_from_scratch",
    "load_settings",
    "pairs_from_ranking",
    "pairwise_accuracy",
    "patch_loss",
    "pretrain",
    "ranking_loss",
    "starting_model",
]
