"""The flags of the original's training script, mapped to our settings.

Flags without an effect in the original, and flags that another mechanism has replaced, are accepted with
a warning.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from reward_core.printing.command_line import CommandParser
from reward_core.printing.logger import default_logging

from ..errors import ConfigError
from .config_file import load_config
from .train_config import TrainConfig

logger = logging.getLogger(__name__)

# flag -> setting that takes its value.
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
# flag -> number of values. The original parses these flags, but its loss does not depend on them.
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
# flag -> (number of values, what to use instead).
REPLACED_FLAGS = {
    "--local_rank": (1, "torchrun and accelerate set it through the environment"),
    "--dataloader_num_workers": (1, "prompts are read without workers"),
    "--validation_epochs": (1, "set validation.every to a number of steps"),
    "--num_train_epochs": (1, "set the number of steps with --max_train_steps"),
    "--cache_dir": (1, "set HF_HOME"),
    "--logging_dir": (1, "logs are written to the output folder"),
    "--scale_lr": (0, "set the final value with --learning_rate"),
    "--push_to_hub": (0, "name the repository with --hub_model_id"),
    "--hub_token": (1, "log in with `hf auth login`"),
    "--resume_from_checkpoint": (1, "a run resumes by itself when started again with the same folder"),
    "--enable_xformers_memory_efficient_attention": (0, "attention uses torch's own kernels"),
    "--tracker_project_name": (1, "trackers use the name of the output folder"),
    "--use_peft": (0, "set the LoRA rank with --rank"),
}


def parse_args(argv: Sequence[str] | None = None) -> TrainConfig:
    """Parse the original's command-line flags into settings.

    ``--preset``, ``--config FILE`` and ``--set key=value`` of ``refl train`` work too and may be mixed with
    the original's flags. Without flags, the settings are those of the preset sd14-paper, which follows the
    original's script.

    Args:
        argv: the arguments; None: ``sys.argv[1:]``.

    Raises:
        SystemExit: an unknown flag or an invalid value (exit code 2, message on stderr).
    """
    parser = CommandParser(allow_abbrev=False, description="Fine-tune a diffusion model against a reward.")
    parser.add_argument("--preset", default="sd14-paper")
    parser.add_argument("--config", metavar="FILE")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="settings")
    original = parser.add_argument_group("the original's flags")
    for flag, setting in MAPPED_FLAGS.items():
        original.add_argument(flag, help=f"= --set {setting}=...")
    original.add_argument("--resolution", help="= --set rollout.height=... rollout.width=...")
    for flag, (setting, value) in SWITCH_FLAGS.items():
        original.add_argument(flag, action="store_true", help=f"= --set {setting}={value}")
    for flag, count in IGNORED_FLAGS.items():
        options: dict[str, Any] = {"nargs": "*" if count == "*" else None}
        options = {"action": "store_true"} if count == 0 else options
        original.add_argument(flag, help="ignored; no effect in the original", **options)
    for flag, (count, advice) in REPLACED_FLAGS.items():
        options = {"action": "store_true"} if count == 0 else {}
        original.add_argument(flag, help=advice, **options)
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
            logger.warning(f"{flag} is ignored: it has no effect in the original")
    for flag, (_, advice) in REPLACED_FLAGS.items():
        if given(flag):
            logger.warning(f"{flag} is ignored: {advice}")
    try:
        return load_config(args["config"], args["preset"], [*settings, *args["settings"]])
    except ConfigError as error:
        parser.error(str(error))
