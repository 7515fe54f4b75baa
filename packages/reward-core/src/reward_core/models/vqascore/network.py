"""CLIP-FlanT5: patches of an image and tokens of a question to log probabilities of an answer.

Shapes: B pairs, M images, N image tokens, S image side, L text tokens, V width of the image encoder, D width
of T5, A tokens of the answer, R rows of the vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import CheckpointError
from ...files.foreign_bytes import guarded, reason
from .config import VqaConfig

START = 0  # the token before every answer


class ClipT5(nn.Module):
    """An image encoder, a projector, and a T5 that reads image tokens and text together."""

    def __init__(self, config: VqaConfig) -> None:
        super().__init__()
        with guarded(lambda error: CheckpointError(f"Cannot build a model from its sizes: {reason(error)}.")):
            self.vision: Any = _vision(config)
            self.t5: Any = _t5(config)
        self.mm_projector = nn.Sequential(
            nn.Linear(config.vision_width, config.text_width),
            nn.GELU(),
            nn.Linear(config.text_width, config.text_width),
        )

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = self.t5.shared.weight.dtype
        return dtype

    def encode_images(self, pixels: Tensor) -> Tensor:
        """Return patch features (M, N, V) of normalized pixels (M, 3, S, S).

        They are the input of the last layer; the class token is dropped.
        """
        output = self.vision(pixel_values=pixels.to(self.dtype), output_hidden_states=True)
        features: Tensor = output.hidden_states[-2][:, 1:]
        return features

    def image_tokens(self, features: Tensor) -> Tensor:
        """Return image tokens (M, N, D) of patch features (M, N, V)."""
        tokens: Tensor = self.mm_projector(features.to(self.dtype))
        return tokens

    def encoder_inputs(
        self, image_tokens: Tensor, token_ids: Tensor, mask: Tensor | None, image_index: int
    ) -> tuple[Tensor, Tensor | None]:
        """Return the inputs of T5's encoder (B, L - 1 + N, D), and their mask; None without padding.

        Args:
            image_tokens: (B, N, D).
            token_ids: (B, L), with one stand-in for the image.
            mask: (B, L), 0 at padding on the right; None without padding.
            image_index: index of the stand-in.
        """
        embedded = self.t5.shared(token_ids.clamp(min=0))
        inputs = torch.cat([embedded[:, :image_index], image_tokens, embedded[:, image_index + 1 :]], dim=1)
        if mask is None:
            return inputs, None
        seen = mask.new_ones(image_tokens.shape[:2])
        return inputs, torch.cat([mask[:, :image_index], seen, mask[:, image_index + 1 :]], dim=1)

    def answer_logits(self, inputs: Tensor, mask: Tensor | None, answer: Tensor) -> Tensor:
        """Return the logits (B, A, R) at each token of an answer, float32.

        Args:
            inputs: inputs of the encoder (B, L, D).
            mask: (B, L); None without padding.
            answer: (A,) token ids, the end token last.
        """
        encoded = self.t5.encoder(inputs_embeds=inputs, attention_mask=mask).last_hidden_state
        read = F.pad(answer[:-1], (1, 0), value=START).expand(len(inputs), -1)  # (B, A)
        decoded = self.t5.decoder(
            input_ids=read,
            encoder_hidden_states=encoded,
            encoder_attention_mask=mask,
            use_cache=False,
        ).last_hidden_state
        logits: Tensor = self.t5.lm_head(decoded)
        return logits.float()


def _vision(config: VqaConfig) -> nn.Module:
    """Return CLIP's image encoder from transformers."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    sizes = CLIPVisionConfig(
        image_size=config.image_size,
        patch_size=config.patch_size,
        hidden_size=config.vision_width,
        num_hidden_layers=config.vision_depth,
        num_attention_heads=config.vision_heads,
        intermediate_size=config.vision_mlp,
        layer_norm_eps=config.vision_layer_norm_eps,
        hidden_act="quick_gelu",
    )
    sizes._attn_implementation = "sdpa"
    model: Any = CLIPVisionModel(sizes)
    tower: Any = getattr(model, "vision_model", model)  # transformers 5 has no inner model
    # Constants stay on the CPU while a model is built on "meta".
    positions = torch.arange(config.image_tokens + 1, device="cpu")[None]
    tower.embeddings.register_buffer("position_ids", positions, persistent=False)
    encoder: nn.Module = tower
    return encoder


def _t5(config: VqaConfig) -> nn.Module:
    """Return T5 from transformers. Its encoder and decoder share the embeddings."""
    from transformers import T5Config, T5ForConditionalGeneration

    sizes = T5Config(
        vocab_size=config.vocab_size,
        d_model=config.text_width,
        d_kv=config.head_width,
        d_ff=config.text_mlp,
        num_layers=config.encoder_depth,
        num_decoder_layers=config.decoder_depth,
        num_heads=config.text_heads,
        relative_attention_num_buckets=config.position_buckets,
        relative_attention_max_distance=config.position_distance,
        layer_norm_epsilon=config.text_layer_norm_eps,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
    )
    # The attention of T5 in transformers 4 is always eager.
    sizes._attn_implementation = "sdpa" if T5ForConditionalGeneration._supports_sdpa else "eager"
    model: Any = T5ForConditionalGeneration(sizes)
    model.set_input_embeddings(model.shared)
    # transformers 5 always ties the output to the embeddings.
    model.lm_head = nn.Linear(config.text_width, config.vocab_size, bias=False)
    t5: nn.Module = model
    return t5
