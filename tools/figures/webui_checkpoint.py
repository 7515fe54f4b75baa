"""A script for Stable Diffusion WebUI Forge that draws ShapesBench images instead of running a checkpoint.

``webui.py`` copies it into an extension. Everything except ``sample`` and the model object stays Forge's.
"""

from types import SimpleNamespace
from unittest.mock import MagicMock

import numpy as np
import torch
from modules import extra_networks, processing, scripts, sd_models, sd_unet, shared

from reward_core import shapes

FAULTS = ((), ("blur",), ("wrong_shape",), ("extra", "low_contrast"))


class Decoded(list):
    """Images (3, H, W) in [-1, 1] that need no VAE."""

    already_decoded = True


def draw(prompt, seed):
    faults = [shapes.Fault(kind, 0.8) for kind in FAULTS[seed % len(FAULTS)]]
    image = shapes.make_image(shapes.parse(prompt), np.random.default_rng(seed), faults).pixels
    return torch.from_numpy(image).permute(2, 0, 1).float() / 127.5 - 1


def sample(self, conditioning, unconditional_conditioning, seeds, subseeds, subseed_strength, prompts):
    return Decoded(draw(prompt, seed) for prompt, seed in zip(prompts, seeds))


class Model(SimpleNamespace):
    """A model object; is_sd3 and the like are false."""

    def __getattr__(self, name):
        if name.startswith("is_"):
            return False
        raise AttributeError(name)


def model(name):
    parts = MagicMock()
    parts.vae.latent_channels = 4
    parts.shallow_copy.return_value = parts
    return Model(
        forge_objects=parts,
        forge_objects_original=parts,
        forge_objects_after_applying_lora=parts,
        sd_checkpoint_info=SimpleNamespace(name_for_extra=name, title=name, filename=name, model_name=name),
        sd_model_hash="",
        model_config=SimpleNamespace(ztsnr=False),
        extra_generation_params={},
        comments=[],
        is_webui_legacy_model=lambda: True,
        use_distilled_cfg_scale=False,
    )


def no_conditions(self):
    self.c = self.uc = None


MODEL = model("shapes")
sd_models.model_data.sd_model = MODEL
sd_models.forge_model_reload = processing.forge_model_reload = lambda: (MODEL, False)
processing.StableDiffusionProcessingTxt2Img.setup_conds = no_conditions
processing.StableDiffusionProcessingTxt2Img.sample = sample
shared.opts.data["live_previews_enable"] = False
processing.apply_circular_forge = sd_models.apply_alpha_schedule_override = lambda *args: None
sd_unet.apply_unet = extra_networks.activate = extra_networks.deactivate = lambda *args, **kwargs: None


class Script(scripts.Script):
    def title(self):
        return "Draw shapes"

    def show(self, is_img2img):
        return False
