"""What a bulk run asks of a model: pixels of one image, features of some, rewards of a batch.

The model's own steps, uncompiled: a run that goes on must give the numbers of one that was never stopped.

Letters in shape comments: B batch, S image side.
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
    """A model's steps in batches; one that does not fit in memory is halved, and so are those after it."""

    def __init__(self, model: ScoringModel, batch_size: int):
        self.model, self.batch_size = model, batch_size
        self.first_clipped = FirstClippedImage()

    def open(self, row: InputRow) -> Tensor:
        """The row's image as normalized pixels (3, S, S), on the CPU. Raises ImageError."""
        with row.open() as image:
            self.first_clipped.check(image, row.image)
            with rgb_guard(row.image):
                return self.model.transform.from_pil(image)

    def features(self, pixels: Sequence[Tensor]) -> Tensor:
        """Pixels of B images -> image features (B, ...) on the model's device."""
        device = self.model.device

        def encode(part: range) -> Tensor:
            together = torch.stack(list(pixels[part.start : part.stop]))
            if device.type == "cuda":
                return self.model.encode_pixels(together.pin_memory().to(device, non_blocking=True))
            return self.model.encode_pixels(together.to(device))

        return self._halved(encode, len(pixels))

    def rewards(self, prompts: Sequence[str], features: Sequence[Tensor] | Tensor) -> tuple[Tensor, int]:
        """B prompts, their images' features -> rewards (B,) on the device; how many prompts were cut."""
        token_ids, mask = self.model.tokenizer(prompts)
        lengths = mask.sum(1).tolist()
        full = [p for p, length in zip(prompts, lengths) if length == self.model.tokenizer.max_length]
        cut = sum(bool(self.model.tokenizer.dropped_words(prompt)) for prompt in full)
        token_ids, mask = token_ids.to(self.model.device), mask.to(self.model.device)

        def rewards(part: range) -> Tensor:
            own = slice(part.start, part.stop)
            some = features[own] if torch.is_tensor(features) else torch.stack(list(features[own]))
            return self.model.rewards_from_features(some, token_ids[own], mask[own]).float()

        return self._halved(rewards, len(prompts)), cut

    @torch.no_grad()
    def _halved(self, compute: Callable[[range], Tensor], count: int) -> Tensor:
        parts = list(in_batches(compute, count, self.batch_size))
        if len(parts) > 1:  # memory ran out: that would happen again
            self.batch_size = min(self.batch_size, max(map(len, parts)))
        return torch.cat(parts) if len(parts) > 1 else parts[0]


def weights_digest(model: ScoringModel) -> str:
    """SHA-256 of all weights and of the tokenizer."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    digest.update(model.tokenizer.fast_tokenizer.to_str().encode())
    return digest.hexdigest()
