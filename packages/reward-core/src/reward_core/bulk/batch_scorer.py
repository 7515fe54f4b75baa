"""Compute pixels, image features and rewards in batches for a bulk run.

The model is not compiled, so that a resumed run computes the same values as an uninterrupted one.

Shapes: B batch, S image side.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..inputs.clipped_levels import FirstClippedImage
from ..inputs.image_file import rgb_guard
from ..scoring.batching import in_batches
from ..scoring.scoring_model import ScoringModel
from .input_row import InputRow


class BatchScorer:
    """Compute the stages of a model in batches; on out-of-memory the batch size is halved and stays so."""

    def __init__(self, model: ScoringModel, batch_size: int):
        self.model, self.batch_size = model, batch_size
        self.first_clipped = FirstClippedImage()

    def open(self, row: InputRow) -> Tensor:
        """Return a row's image as normalized pixels (3, S, S) on the CPU. Raise ImageError."""
        with row.open() as image:
            self.first_clipped.check(image, row.image)
            with rgb_guard(row.image):
                return self.model.transform.from_pil(image)

    def features(self, pixels: Sequence[Tensor]) -> Tensor:
        """Return the features (B, ...) of B images, on the model's device."""
        device = self.model.device

        def encode(part: range) -> Tensor:
            batch = torch.stack(list(pixels[part.start : part.stop]))
            if device.type == "cuda":
                return self.model.encode_pixels(batch.pin_memory().to(device, non_blocking=True))
            return self.model.encode_pixels(batch.to(device))

        return self._halved(encode, len(pixels))

    def rewards(self, prompts: Sequence[str], features: Sequence[Tensor] | Tensor) -> tuple[Tensor, int]:
        """Return rewards (B,) on the model's device, and the number of truncated prompts.

        Args:
            prompts: B prompts.
            features: features of the B images.
        """
        token_ids, mask = self.model.tokenizer(prompts)
        lengths = mask.sum(1).tolist()
        full = [p for p, length in zip(prompts, lengths) if length == self.model.tokenizer.max_length]
        cut = sum(bool(self.model.tokenizer.dropped_words(prompt)) for prompt in full)
        token_ids, mask = token_ids.to(self.model.device), mask.to(self.model.device)

        def rewards(part: range) -> Tensor:
            rows = slice(part.start, part.stop)
            batch = features[rows] if torch.is_tensor(features) else torch.stack(list(features[rows]))
            return self.model.rewards_from_features(batch, token_ids[rows], mask[rows]).float()

        return self._halved(rewards, len(prompts)), cut

    @torch.no_grad()
    def _halved(self, compute: Callable[[range], Tensor], count: int) -> Tensor:
        parts = list(in_batches(compute, count, self.batch_size))
        if len(parts) > 1:  # out of memory: larger batches would fail again
            self.batch_size = min(self.batch_size, max(map(len, parts)))
        return torch.cat(parts) if len(parts) > 1 else parts[0]


def weights_digest(model: ScoringModel) -> str:
    """Return the SHA-256 of a model's weights and tokenizer."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    digest.update(model.tokenizer.fast_tokenizer.to_str().encode())
    return digest.hexdigest()
