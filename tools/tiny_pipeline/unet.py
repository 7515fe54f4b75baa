"""A latent UNet with Stable Diffusion's layout, and its training.

Latents of the images and text features of the prompts are computed once. Muon trains matrices and
convolution kernels, AdamW everything else. The learning rate is constant and decays to 0 in the last part of
the run, so an interrupted run can be resumed with another number of steps.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn

BATCH = 32
MUON_RATE, ADAM_RATE, WARMUP, DECAY_SHARE = 3e-3, 1.5e-3, 60, 0.35
EMPTY = 0.1  # share of samples that see the empty prompt, for guidance
AVERAGE = 0.999  # decay of the weights' moving average, which is the result


@dataclass
class Latents:
    """Training data of the UNet.

    Attributes:
        latents: (N, 4, 16, 16) float16 latents of the images.
        texts: (P, 16, D) float16 text features of all prompts.
        of: (N, 4) indices of each image's prompts in ``texts``.
        empty: (16, D) float32 text features of the empty prompt.
    """

    latents: Tensor
    texts: Tensor
    of: Tensor
    empty: Tensor


def make_unet() -> UNet2DConditionModel:
    unet = UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=(48, 96),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=128,
        attention_head_dim=4,  # the number of heads, despite diffusers' name
        norm_num_groups=16,
        resnet_time_scale_shift="scale_shift",
        # Adds the pooled prompt to the timestep embedding, which learns colors and shapes much sooner than
        # cross-attention alone.
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
    )
    unet.set_attn_processor(AttnProcessor())
    return unet


def make_scheduler() -> DDIMScheduler:
    """Build a scheduler with v prediction and cosine levels.

    The usual linear levels destroy 16 x 16 latents already halfway.
    """
    return DDIMScheduler(
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        clip_sample=False,
        steps_offset=1,
    )


class UNetTraining:
    """A training run that can be saved and resumed.

    Attributes:
        step: number of finished steps.
        seconds: processor time so far.
    """

    def __init__(self, unet: UNet2DConditionModel, seed: int):
        self.unet, self.seed, self.step, self.seconds = unet, seed, 0, 0.0
        named = list(unet.named_parameters())
        ends = ("conv_in", "conv_out", "time_embedding", "add_embedding")
        matrices = [p for name, p in named if p.ndim in (2, 4) and not name.startswith(ends)]
        matrix_ids = {id(p) for p in matrices}
        # Muon needs matrices, so a kernel is viewed as outputs x inputs.
        self._views = [(p, nn.Parameter(p.data.view(len(p), -1))) for p in matrices]
        rest = [p for _, p in named if id(p) not in matrix_ids]
        views = [view for _, view in self._views]
        self.optimizers = [
            torch.optim.Muon(views, MUON_RATE, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(rest, ADAM_RATE, betas=(0.9, 0.99), weight_decay=0.0, fused=True),
        ]
        self.average = [p.detach().clone() for p in unet.parameters()]
        alphas = make_scheduler().alphas_cumprod
        self.alphas, self.sigmas = alphas.sqrt(), (1 - alphas).sqrt()

    def run(self, data: Latents, steps: int, on_step: Callable[[int, float], None], file: Path) -> None:
        """Train until ``steps``; save to ``file`` every two minutes and at the end."""
        started, saved = time.process_time() - self.seconds, time.perf_counter()
        while self.step < steps:
            loss = self._step(data, steps)
            self.seconds = time.process_time() - started
            on_step(self.step, loss)
            if time.perf_counter() - saved > 120 or self.step == steps:
                self.save(file)
                saved = time.perf_counter()

    def _step(self, data: Latents, steps: int) -> float:
        left = (steps - self.step) / (DECAY_SHARE * steps)
        for optimizer, rate in zip(self.optimizers, (MUON_RATE, ADAM_RATE)):
            for group in optimizer.param_groups:
                group["lr"] = rate * min(1.0, (self.step + 1) / WARMUP, left)
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.step)  # resumable
        indices = torch.randint(len(data.latents), (BATCH,), generator=generator)
        wording = torch.randint(data.of.shape[1], (BATCH,), generator=generator)
        text = data.texts[data.of[indices, wording]].float()
        text[torch.rand(BATCH, generator=generator) < EMPTY] = data.empty
        x0 = data.latents[indices].float()
        # One timestep from each of 32 equal ranges of levels, for less variance in the loss.
        spread = torch.arange(BATCH) + torch.rand(BATCH, generator=generator)
        timesteps = (spread * len(self.alphas) / BATCH).long()
        noise = torch.randn(x0.shape, generator=generator)
        alpha, sigma = (level[timesteps].view(-1, 1, 1, 1) for level in (self.alphas, self.sigmas))
        with torch.autocast("cpu", torch.bfloat16):
            output = self.unet(alpha * x0 + sigma * noise, timesteps, text, return_dict=False)[0]
        loss = (output.float() - (alpha * noise - sigma * x0)).pow(2).mean()
        loss.backward()
        for parameter, view in self._views:
            view.grad = parameter.grad.view(view.shape)
        for optimizer in self.optimizers:
            optimizer.step()
        self.unet.zero_grad(set_to_none=True)
        self.step += 1
        decay = min(AVERAGE, self.step / (self.step + 10))
        torch._foreach_lerp_(self.average, [p.data for p in self.unet.parameters()], 1 - decay)
        return loss.item()

    def save(self, file: Path) -> None:
        state = {
            "step": self.step,
            "seconds": self.seconds,
            "weights": self.unet.state_dict(),
            "average": self.average,
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }
        temporary = file.with_name(f".{file.name}")
        torch.save(state, temporary)
        os.replace(temporary, file)

    def load(self, file: Path) -> None:
        state = torch.load(file, weights_only=True)
        self.step, self.seconds = state["step"], state["seconds"]
        self.unet.load_state_dict(state["weights"])  # in place, because the views share memory
        self.average = state["average"]
        for optimizer, optimizer_state in zip(self.optimizers, state["optimizers"]):
            optimizer.load_state_dict(optimizer_state)

    @torch.no_grad()
    def ema_model(self) -> UNet2DConditionModel:
        """Return a new UNet with the averaged weights."""
        unet = make_unet()
        for parameter, value in zip(unet.parameters(), self.average):
            parameter.copy_(value)
        return unet.requires_grad_(False).eval()
