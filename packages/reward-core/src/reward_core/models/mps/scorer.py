"""The Multi-dimensional Preference Score (MPS).

Shapes: B pairs, M images, P prompts, K prompts of an image, S image side, N image tokens, L text tokens, D
width of the projections.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...inputs.tokenizer import PromptTokenizer
from ...runs.cuda import upload
from ...scoring.batching import in_batches
from ...scoring.features import PromptFeatures
from ...scoring.precision import convert_all_but_scale, convert_matrices
from ...scoring.transfers import transfers_for
from ..checkpoint import read_state_dict
from ..clip.config_files import read_clip_config
from ..clip.published import CLIP_TOKENIZER
from ..clip.tokenizer import ClipTokenizer
from ..clip.transform import MEAN, STD, RgbFirstTransform
from ..model_files import ModelFiles
from ..pretrained import Pretrained
from .config import MpsConfig
from .config_files import with_cross_sizes
from .key_map import to_mps_keys
from .network import CrossModel
from .published import MPS_MODELS

# Pairs that the cross model computes at once in score_matrix. One takes about 20 MB at full size.
_PAIRS_AT_ONCE = {"cpu": 16, "cuda": 256}


class MpsScorer(Pretrained):
    """MPS (arXiv 2405.14705): CLIP and a cross model in which the image reads the prompt.

    Only the prompt tokens that resemble a condition are read. The default condition is that of the overall
    score. The threshold of the similarity is 0.3 (``config.threshold``), as in the authors' evaluation, which
    gave the published accuracies; their README's example has 0.01 and gives other scores. The similarity is
    relative to its maximum over the tokens of one prompt, so scores do not depend on the other pairs of a
    batch. (In the authors' ``forward`` it is the maximum over the batch.)

    Image features are the projected tokens (B, N, D) of CLIP, about 1 MB an image at full size.
    """

    config_class = MpsConfig
    published = MPS_MODELS
    tokenizer_class = ClipTokenizer
    vocabulary = CLIP_TOKENIZER
    settings = ("condition", "threshold")

    def __init__(self, config: MpsConfig, tokenizer: PromptTokenizer):
        super().__init__()
        self.config = config
        self.tokenizer = tokenizer
        self.transform = RgbFirstTransform(config.image_size, MEAN, STD)
        self.clip = config.build()
        self.cross_model = CrossModel(config)
        self._condition_ids: Tensor | None = None

    @staticmethod
    def rename_weights(state: dict[str, Tensor]) -> dict[str, Tensor]:
        return to_mps_keys(state)

    @classmethod
    def read_weights(cls, files: ModelFiles) -> dict[str, Tensor]:
        """Return the weights. The authors' checkpoint is a pickled module; none of its code is executed."""
        return cls.rename_weights(read_state_dict(files.weights, pickled_module=True))

    @classmethod
    def read_config(cls, files: ModelFiles) -> MpsConfig:
        """Return the configuration, with the sizes in files of local copies."""
        config: MpsConfig = super().read_config(files)
        path = files.parts.get("cross_config")
        return config if path is None else with_cross_sizes(config, path)

    @classmethod
    def config_from_file(cls, content: Any, source: str, published: MpsConfig | None) -> MpsConfig:
        return read_clip_config(cls.config_class, content, source, published)

    def set_encoder_dtype(self, dtype: torch.dtype) -> None:
        """Convert CLIP and the matrices of the cross model; tokens and cosines stay in float32."""
        convert_all_but_scale(self.clip, dtype)
        convert_matrices(self.cross_model, dtype)

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """Return projected image tokens (B, N, D) of normalized pixels (B, 3, S, S)."""
        tokens = self.clip.vision_model(pixel_values=pixels).last_hidden_state
        return self.clip.visual_projection(tokens).float()

    def rewards_from_kv(self, image_tokens: Tensor, token_ids: Tensor, mask: Tensor | None) -> Tensor:
        """Return scores (M K,) of image tokens (M, N, D) with K consecutive prompts each, (M K, L)."""
        pairs = image_tokens.repeat_interleave(len(token_ids) // len(image_tokens), dim=0)
        return self._pair_scores(pairs, *self._read_prompts(token_ids, mask))

    def _matrix(self, image_tokens: Tensor, prompts: PromptFeatures) -> Tensor:
        """Return the scores (M, P) of M images with all prompts. Each prompt is encoded once."""
        count, upload = len(image_tokens), transfers_for(self.device).upload

        def scored(part: range) -> Tensor:
            some = prompts[part]
            texts = self._read_prompts(upload(some.token_ids), upload(some.mask))
            pairs = image_tokens.repeat_interleave(len(part), dim=0)  # (M K, N, D)
            several = (x.repeat(count, *[1] * (x.ndim - 1)) for x in texts)
            return self._pair_scores(pairs, *several).view(count, len(part))

        size = max(1, _PAIRS_AT_ONCE.get(self.device.type, 16) // count)
        return torch.cat(list(in_batches(scored, len(prompts), size, self.path().release_memory)), dim=1)

    def _read_prompts(self, token_ids: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return text tokens (B, L, D), which of them are open (B, L), and the prompts' unit vectors (B, D).

        Padding is part of the text: prompts are padded to the full length with the end token.
        """
        ids = torch.cat([self._padded(token_ids, mask), self._condition(token_ids.device)])
        hidden = self.clip.text_model(input_ids=ids).last_hidden_state  # (B + 1, L, text width)
        tokens = self.clip.text_projection(hidden).float()
        tokens, condition_tokens = tokens[:-1], tokens[-1]
        similarity = (tokens @ condition_tokens.T).amax(-1)  # (B, L)
        is_open = similarity / similarity.amax(-1, keepdim=True) > self.config.threshold
        # A prompt's vector is that of its first end token, which has the highest id.
        ends = tokens[torch.arange(len(tokens), device=tokens.device), ids[:-1].argmax(1)]
        return tokens, is_open, F.normalize(ends, dim=-1)

    def _condition(self, device: torch.device) -> Tensor:
        """Return the token ids (1, max_length) of the condition, which stay on the device."""
        if self._condition_ids is None or self._condition_ids.device != device:
            condition, _ = self.tokenizer([self.config.condition], warn=False)
            self._condition_ids = upload(self._padded(condition, None), device)
        return self._condition_ids

    def _padded(self, token_ids: Tensor, mask: Tensor | None) -> Tensor:
        """Return token ids padded with the end token to ``config.max_length``."""
        end = self.config.vocab_size - 1
        if mask is not None:
            token_ids = token_ids.masked_fill(mask == 0, end)
        return F.pad(token_ids, (0, self.config.max_length - token_ids.shape[1]), value=end)

    def _pair_scores(
        self, image_tokens: Tensor, text_tokens: Tensor, is_open: Tensor, text_vectors: Tensor
    ) -> Tensor:
        """Return scores (B,) of image tokens (B, N, D) and prompts as ``_read_prompts`` returns them."""
        images = F.normalize(self.cross_model(image_tokens, text_tokens, is_open).float(), dim=-1)
        return (images * text_vectors).sum(-1) * self.clip.logit_scale.float().exp()
