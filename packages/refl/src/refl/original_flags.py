"""The original's command line (scripts/train_refl.sh and its parser), understood.

Flags with a meaning are mapped to settings; those that never had one, or that accelerate or the presets
decide, are accepted and named.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from reward_core.printing.command_line import CommandParser
from reward_core.printing.logger import default_logging

from .config import TrainConfig
from .config_file import load_config
from .errors import ConfigError

logger = logging.getLogger(__name__)

# flag -> setting; the value is what was given.
MAPPED_FLAGS = {
    "--pretrained_model_name_or_path": "model.id",
    "--revision": "model.revision",
    "--train_data_dir": "prompts",
    "--grad_scale": "loss.reward_scale",
    "--output_dir": "run.out",
    "--seed": "run.seed",
    "--train_batch_size": "run.batch_size",
    "--max_train_steps": "run.steps",
    "--gradient_accumulation_steps": "run.accumulation",
    "--learning_rate": "optimizer.lr",
    "--lr_scheduler": "optimizer.schedule",
    "--lr_warmup_steps": "optimizer.warmup_steps",
    "--adam_beta1": "optimizer.beta1",
    "--adam_beta2": "optimizer.beta2",
    "--adam_weight_decay": "optimizer.weight_decay",
    "--adam_epsilon": "optimizer.epsilon",
    "--max_grad_norm": "optimizer.max_grad_norm",
    "--mixed_precision": "run.mixed_precision",
    "--report_to": "run.trackers",
    "--checkpointing_steps": "run.checkpoint_every",
    "--checkpoints_total_limit": "run.checkpoints",
    "--hub_model_id": "run.push_to_hub",
    "--dataset_name": "loss.pretraining_data",
    "--image_column": "loss.image_column",
    "--caption_column": "loss.caption_column",
    "--rank": "model.lora_rank",
}
SWITCH_FLAGS = {
    "--gradient_checkpointing": ("model.gradient_checkpointing", "true"),
    "--use_8bit_adam": ("optimizer.eight_bit", "true"),
    "--use_ema": ("optimizer.ema_decay", "0.9999"),
    "--allow_tf32": ("run.tf32", "true"),
}
# Read by the original's parser, and by nothing after it, or without effect on its loss.
IGNORED_FLAGS = {
    "--input_pertubation": 1,
    "--dataset_config_name": 1,
    "--max_train_samples": 1,
    "--validation_prompts": "*",
    "--center_crop": 0,
    "--random_flip": 0,
    "--snr_gamma": 1,
    "--non_ema_revision": 1,
    "--noise_offset": 1,
    "--proportion_empty_prompts": 1,
}
# Done elsewhere today.
REPLACED_FLAGS = {
    "--local_rank": (1, "torchrun and accelerate tell it by environment"),
    "--dataloader_num_workers": (1, "prompts need no workers"),
    "--validation_epochs": (1, "set validation.every, in steps"),
    "--num_train_epochs": (1, "runs are counted in steps: give --max_train_steps"),
    "--cache_dir": (1, "set HF_HOME"),
    "--logging_dir": (1, "logs lie in the output folder"),
    "--scale_lr": (0, "give the learning rate that you mean"),
    "--push_to_hub": (0, "name the repository with --hub_model_id"),
    "--hub_token": (1, "log in with `hf auth login`"),
    "--resume_from_checkpoint": (1, "a run resumes by itself when started again with the same folder"),
    "--enable_xformers_memory_efficient_attention": (0, "torch's own attention is used"),
    "--tracker_project_name": (1, "trackers use the output folder's name"),
    "--use_peft": (0, "set --rank"),
}


def parse_args(argv: Sequence[str] | None = None) -> TrainConfig:
    """Settings from the command line, in the original's flags, ours, or both.

    Without flags it is the preset sd14-paper: what the original's script asks for. ``--preset``,
    ``--config FILE`` and ``--set key=value`` do what they do for ``refl train``.

    Raises:
        SystemExit: an unknown flag (code 2, named on stderr).
    """
    parser = CommandParser(allow_abbrev=False, description="Fine-tune a diffusion model against a reward.")
    parser.add_argument("--preset", default="sd14-paper")
    parser.add_argument("--config", metavar="FILE")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="settings")
    known = parser.add_argument_group("the original's flags")
    for flag, setting in MAPPED_FLAGS.items():
        known.add_argument(flag, help=f"= --set {setting}=...")
    known.add_argument("--resolution", help="= --set rollout.height=... rollout.width=...")
    for flag, (setting, value) in SWITCH_FLAGS.items():
        known.add_argument(flag, action="store_true", help=f"= --set {setting}={value}")
    for flag, count in IGNORED_FLAGS.items():
        options: dict[str, Any] = {"nargs": "*" if count == "*" else None}
        options = {"action": "store_true"} if count == 0 else options
        known.add_argument(flag, help="never had an effect", **options)
    for flag, (count, advice) in REPLACED_FLAGS.items():
        options = {"action": "store_true"} if count == 0 else {}
        known.add_argument(flag, help=advice, **options)
    args = vars(parser.parse_args(argv))
    default_logging("refl")

    def given(flag: str) -> bool:
        return args[flag.lstrip("-")] not in (None, False)

    settings = []
    for flag, setting in MAPPED_FLAGS.items():
        if given(flag):
            settings.append(f"{setting}={args[flag.lstrip('-')]}")
    if given("--resolution"):
        settings += [f"rollout.{side}={args['resolution']}" for side in ("height", "width")]
    settings += [f"{setting}={value}" for flag, (setting, value) in SWITCH_FLAGS.items() if given(flag)]
    for flag in IGNORED_FLAGS:
        if given(flag):
            logger.warning(f"{flag} never had an effect in the original; it is ignored")
    for flag, (_, advice) in REPLACED_FLAGS.items():
        if given(flag):
            logger.warning(f"{flag} is not used: {advice}")
    try:
        return load_config(args["config"], args["preset"], [*settings, *args["settings"]])
    except ConfigError as error:
        parser.error(str(error))
