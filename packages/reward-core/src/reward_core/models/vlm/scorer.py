"""Base class of the scorers with a vision-language model as backbone.

Letters in shape comments: B pairs, N pairs or images, L text tokens, T, D as in image_rows.py, E width.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from ...errors import CheckpointError, InputError
from ...files.json_file import read_json
from ...inputs.image_file import ImageSource
from ...inputs.pixel_range import refuse_levels
from ...runs.cuda import upload
from ...scoring.device import usable_device
from ...scoring.features import ImageFeatures, PromptFeatures
from ...scoring.model_source import ModelSource
from ...scoring.rewards import checked_finite
from ...scoring.scoring_model import ScoringModel
from ..checkpoint import MAX_CONFIG_BYTES
from ..load_options import LoadOptions
from ..model_files import ModelFiles
from .backbone import Backbone
from .config import VlmConfig, read_vlm_config
from .image_transform import VlmTransform
from .prompts import VlmTokenizer
from .weights import EMBEDDINGS, WeightFiles, assign_weights, check_keys

V = TypeVar("V", bound="VlmScorer")
_CONDITION = "head.cond_encoder.0.weight"  # (C, 2)


@dataclass(frozen=True, eq=False)
class ScoreDetails:
    """What a scorer says about N pairs.

    Attributes:
        mu: the scores (N,).
        sigma: standard deviations (N,) of the scores: how unsure the scorer is. The probability that people
            prefer image a to b is that of a normal variable with mean mu_a - mu_b and variance
            sigma_a^2 + sigma_b^2 to be positive.
        capability: estimated capability of the generator (N,), 0 to 1; None for HPSv3.
    """

    mu: Tensor
    sigma: Tensor
    capability: Tensor | None = None


class VlmScorer(ScoringModel):
    """A score read at a special token after an image and a prompt.

    Image features are the visual tokens: an image is encoded once for all prompts. Scores do not depend on
    other pairs in a batch.

    Attributes:
        model_type: type of the base model.
        text: instruction around the prompt.
        grid_positions: whether visual tokens have rotary positions by row and column.
        head: (B, E) float32 to mu, the logarithm of sigma and, for HPSv3++, the capability.
    """

    model_type: ClassVar[str]
    text: ClassVar[str]
    grid_positions: ClassVar[bool]
    resize_on_device = False
    head: nn.Module
    tokenizer: VlmTokenizer

    def __init__(self, config: VlmConfig, tokenizer: VlmTokenizer) -> None:
        super().__init__()
        self.config = config
        self.tokenizer = tokenizer
        self.transform = VlmTransform(config.images)
        self.backbone = Backbone(config, self.grid_positions)

    @classmethod
    def load_files(cls: type[V], files: ModelFiles, options: LoadOptions) -> V:
        """Load a scorer from its files, in evaluation mode with frozen parameters.

        Precision "exact" is float32. "fast" is bfloat16 for the base model and float32 for the head.

        Raises:
            InputError: the device or the precision cannot be used, or transformers is too old.
            CheckpointError: damaged files; KeyMismatchError if the weights do not match the model.
        """
        device = usable_device(options.device)
        if options.med_config is not None:
            raise InputError("Cannot use med_config: this model does not have BERT as text encoder.")
        config = cls.read_config(files)
        tokenizer = cls.find_tokenizer(files, config, options)
        fast = options.precision == "fast" or (options.precision == "auto" and device.type == "cuda")
        dtype = torch.bfloat16 if fast else torch.float32
        weights = WeightFiles(files.weights)
        config = _with_sizes_of(weights, config, tokenizer)
        with torch.device("meta"):
            model = cls(config, tokenizer)
        if options.precision == "int8":
            model.use_int8()
        check_keys(model, weights)
        assign_weights(
            model, weights, lambda key: dtype if key.startswith("backbone.") else torch.float32, device
        )
        others = [path for path in files.source.weights if path != files.weights]
        model.source = ModelSource(files.source.name, (*weights.files, *others))
        return model.to(device).eval().requires_grad_(False)

    @classmethod
    def read_config(cls, files: ModelFiles) -> VlmConfig:
        """Return the configuration from config.json and preprocessor_config.json."""
        path = files.parts["config"]
        preprocessor = read_json(files.parts["preprocessor"], MAX_CONFIG_BYTES)
        return read_vlm_config(read_json(path, MAX_CONFIG_BYTES), preprocessor, cls.model_type, str(path))

    @classmethod
    def find_tokenizer(cls, files: ModelFiles, config: VlmConfig, options: LoadOptions) -> VlmTokenizer:
        """Return the tokenizer with the chat template and the instruction."""
        path, template = files.parts["tokenizer"], files.parts["chat_template"]
        return VlmTokenizer.from_files(path, template, cls.text, config.max_length)

    @property
    def feature_dtype(self) -> torch.dtype:
        return self.backbone.dtype

    def feature_parameters(self) -> Any:
        """Return the parameters of the vision encoder."""
        return self.backbone.model.visual.parameters()

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """Return visual tokens, packed (B, 1 + n T, E), of normalized rows (B, 1 + T, D)."""
        return self.backbone.encode_images(pixels)

    def rewards_from_kv(self, features: Tensor, token_ids: Tensor, mask: Tensor | None) -> Tensor:
        """Return scores of the visual tokens of images, with one or several consecutive prompts each."""
        several = len(token_ids) // len(features)
        return self.values(features.repeat_interleave(several, dim=0), token_ids, mask)[:, 0]

    @abstractmethod
    def values(self, features: Tensor, token_ids: Tensor, mask: Tensor | None) -> Tensor:
        """Return mu, the logarithm of sigma and, for HPSv3++, the capability of B pairs, float32."""

    def reward_states(self, features: Tensor, token_ids: Tensor, mask: Tensor | None) -> Tensor:
        """Return the hidden states (B, E) at the reward token, float32, of B pairs."""
        return self.backbone.reward_states(features, token_ids, mask, self.tokenizer.image_index)

    def score_details(
        self,
        prompts: Sequence[str] | PromptFeatures,
        images: Sequence[ImageSource] | ImageFeatures,
        *,
        batch_size: int | None = None,
    ) -> ScoreDetails:
        """Return the score of prompt i with image i, and how unsure it is.

        Args and Raises are as in ``score_pairs``.
        """
        self._check_prompts(prompts)
        self._check_image_source(images, len(prompts))
        if not isinstance(images, ImageFeatures):
            images = list(images)  # a column of pandas is indexed by labels
        encoded = self._prompt_features(prompts)

        def values(features: Tensor, indices: list[int]) -> Tensor:
            token_ids, mask = (upload(tokens, self.device) for tokens in encoded[indices].trimmed())
            return self.values(features, token_ids, mask)

        computed = checked_finite(self._computed(images, batch_size, values), lambda i: f"value {i}")
        capability = computed[:, 2] if computed.shape[1] > 2 else None
        return ScoreDetails(computed[:, 0], computed[:, 1].exp(), capability)

    def rewards_from_pixels(self, pixels: Tensor | Sequence[Tensor], prompts: Sequence[str]) -> Tensor:
        """Return scores (B,) of float images on the model's device, differentiable down to the pixels.

        Args:
            pixels: (B, 3, H, W) in [0, 1], or a list of B images (3, H, W) of different sizes.
            prompts: B strings.

        Raises:
            InputError: unequal numbers of images and prompts, or images on the CPU with levels 0 to 255.
        """
        refuse_levels(*pixels)
        token_ids, mask = self.tokenizer(prompts)
        if len(pixels) != len(token_ids):
            raise InputError(
                f"Cannot score the pairs: got {len(prompts)} prompts but {len(pixels)} images. "
                "Give one prompt for each image."
            )
        rows = self.transform([image.to(self.device) for image in pixels])
        return self(rows, upload(token_ids, self.device), upload(mask, self.device))


def _with_sizes_of(weights: WeightFiles, config: VlmConfig, tokenizer: VlmTokenizer) -> VlmConfig:
    """Return the configuration with the sizes of the weights.

    Raises:
        CheckpointError: the weights have no embeddings, too few layers, or not those of the tokenizer.
    """
    if EMBEDDINGS not in weights.shapes or config.layers > len(weights.shapes):
        raise CheckpointError(
            f"Cannot load '{weights.path}': its {len(weights.shapes):,} weights are not those of a "
            f"{config.model_type} model with {config.layers:,} layers."
        )
    rows = weights.shapes[EMBEDDINGS][0]
    if rows != tokenizer.rows:
        raise CheckpointError(
            f"Cannot load '{weights.path}': it has embeddings for {rows:,} tokens, but the tokenizer has "
            f"{tokenizer.rows:,} with the reward token. Use the tokenizer.json of the base model."
        )
    return config.with_sizes(rows, weights.shapes.get(_CONDITION, (0,))[0])
