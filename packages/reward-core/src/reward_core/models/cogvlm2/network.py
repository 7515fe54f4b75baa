"""CogVLM2 as a network that reads many questions about an image: vision tower, adapter, language model.

Shapes: B images, S image side, Q questions, T tokens of all questions together, R tokens of a question whose
logits are read, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .adapter import Adapter
from .config import CogVlm2Config
from .language_model import KeysValues, LanguageModel
from .packing import PackedQuestions
from .vision_tower import VisionTower


class CogVlm2(nn.Module):
    """CogVLM2: logits of the tokens that follow questions about images.

    Everything before a question, the prefix, is computed once per image and shared by all questions. Its
    cached keys and values have 2 x depth x kv_heads x head_width x prefix_tokens numbers per image: 302 MB
    in bfloat16 at full size.

    Attributes:
        prefix_passes: number of images whose prefix was computed so far.
    """

    def __init__(self, config: CogVlm2Config):
        super().__init__()
        self.config = config
        self.vision_tower = VisionTower(config)
        self.adapter = Adapter(config)
        self.language_model = LanguageModel(config)
        self.prefix_passes = 0

    @property
    def device(self) -> torch.device:
        """Device of the computation. Offloaded vision experts are elsewhere."""
        return self.language_model.embedding.weight.device

    def encode_images(self, pixels: Tensor, begin_of_text: int) -> list[KeysValues]:
        """Return keys and values of each layer for the prefixes of normalized pixels (B, 3, S, S).

        Raises:
            ValueError: wrong shape of the pixels.
        """
        image_tokens = self.adapter(self.vision_tower(pixels))
        self.prefix_passes += len(pixels)
        return self.language_model.encode_prefix(image_tokens, begin_of_text)

    def forward(self, prefix: list[KeysValues], questions: PackedQuestions) -> Tensor:
        """Return the logits (B, Q, R, V) of the tokens that follow the read tokens of Q questions.

        They are float32, or float64 for weights in float64.
        """
        packed = questions.to(self.device)
        x = self.language_model(packed.token_ids, packed.positions, packed.mask, prefix)  # (B, T, E)
        logits = self.language_model.lm_head(x[:, packed.read])  # (B, Q, R, V)
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def set_gradient_checkpointing(self, enabled: bool) -> None:
        """Choose whether the backward pass computes layers again instead of saving activations."""
        self.vision_tower.gradient_checkpointing = enabled
        self.language_model.gradient_checkpointing = enabled

    def place(self, device: torch.device | str, offload_vision_experts: bool = False) -> None:
        """Move the weights to a device, in place.

        Args:
            device: where the model computes.
            offload_vision_experts: keep the vision experts in the host's memory and copy each layer of them
                to the device while prefixes are computed. At full size this saves 14 GB of 39 GB in bfloat16.
        """
        language = self.language_model
        parts = (self.vision_tower, self.adapter, language.embedding, language.norm, language.lm_head)
        for part in parts:
            part.to(device)
        for layer in language.layers:
            for name, child in layer.named_children():
                child.to("cpu" if offload_vision_experts and name == "vision_expert" else device)
