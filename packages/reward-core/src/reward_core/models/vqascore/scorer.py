"""VQAScore (arXiv 2404.01291): how probable the answer "Yes" is to whether an image shows a text.

Shapes: B pairs, M images, K prompts of an image, P prompts, N image tokens, S image side, L text tokens, V
width of the image encoder, D width of T5.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from ...errors import CheckpointError, InputError
from ...files.json_file import read_json
from ...scoring.batching import in_batches
from ...scoring.device import usable_device
from ...scoring.features import PromptFeatures
from ...scoring.model_source import ModelSource
from ...scoring.scoring_model import ScoringModel
from ...scoring.transfers import transfers_for
from ..checkpoint import MAX_CONFIG_BYTES
from ..load_options import LoadOptions
from ..model_files import ModelFiles, fetch_file
from ..vlm.weights import WeightFiles
from .config import VqaConfig, read_vqa_config
from .image_transform import PaddedTransform
from .network import ClipT5
from .published import VISION
from .questions import QuestionTokenizer
from .weights import has_vision, load_weights, renamed, renamed_clip

# Pairs that T5 reads at once in score_matrix. At full size the attention of one takes 130 MB in float32.
_PAIRS_AT_ONCE = {"cpu": 8, "cuda": 64}


class VqaScorer(ScoringModel):
    """VQAScore: the geometric mean of the probabilities of the tokens of "Yes", its end token included.

    Image features are the patch features (N, V) of CLIP: an image is encoded once for all prompts, and then
    read by T5 together with each prompt. Scores do not depend on other pairs in a batch. ``score`` of one
    prompt and image is a float32 value in [0, 1].
    """

    resize_on_device = False
    tokenizer: QuestionTokenizer
    answer: Tensor

    def __init__(self, config: VqaConfig, tokenizer: QuestionTokenizer) -> None:
        super().__init__()
        self.config = config
        self.tokenizer = tokenizer
        self.transform = PaddedTransform(config.image_size)
        self.network = ClipT5(config)
        # A copy in each call would wait for a GPU. It is on the CPU while the parameters are on "meta".
        answer = torch.tensor(tokenizer.answer, device="cpu")
        self.register_buffer("answer", answer, persistent=False)

    @classmethod
    def load_files(cls, files: ModelFiles, options: LoadOptions) -> VqaScorer:
        """Load a scorer from its files, in evaluation mode with frozen parameters.

        Precision "exact" is float32. "fast" is bfloat16, as in the authors' program, and float32 for the
        probabilities.

        Raises:
            InputError: the device or the precision cannot be used.
            CheckpointError: damaged files; KeyMismatchError if the weights do not match the model.
            HubError: a failed download.
        """
        device = usable_device(options.device)
        if options.med_config is not None:
            raise InputError("Cannot use med_config: this model does not have BERT as text encoder.")
        config = cls.read_config(files)
        tokenizer = cls.find_tokenizer(files, config, options)
        weights = WeightFiles(files.weights, renamed)
        vision = None if has_vision(weights) else WeightFiles(_vision_file(files, options), renamed_clip)
        with torch.device("meta"):
            model = cls(replace(config, vocab_size=tokenizer.rows), tokenizer)
        if options.precision == "int8":
            model.use_int8()
        fast = options.precision == "fast" or (options.precision == "auto" and device.type == "cuda")
        dtype = torch.bfloat16 if fast else torch.float32
        load_weights(model.network, weights, vision, dtype, device)
        read = [*weights.files, *(vision.files if vision is not None else ())]
        model.source = ModelSource(files.source.name, tuple(read))
        return model.to(device).eval().requires_grad_(False)

    @classmethod
    def read_config(cls, files: ModelFiles) -> VqaConfig:
        """Return the configuration from config.json, and the published one for what it does not say."""
        published = files.config if isinstance(files.config, VqaConfig) else VqaConfig()
        path = files.parts["config"]
        return read_vqa_config(read_json(path, MAX_CONFIG_BYTES), str(path), published)

    @classmethod
    def find_tokenizer(cls, files: ModelFiles, config: VqaConfig, options: LoadOptions) -> QuestionTokenizer:
        """Return the tokenizer of the questions."""
        return QuestionTokenizer.from_file(files.parts["tokenizer"], config.max_length)

    @property
    def feature_dtype(self) -> torch.dtype:
        return self.network.dtype

    def feature_parameters(self) -> Iterable[nn.Parameter]:
        """Return the parameters of the image encoder."""
        parameters: Iterable[nn.Parameter] = self.network.vision.parameters()
        return parameters

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """Return patch features (M, N, V) of normalized pixels (M, 3, S, S)."""
        return self.network.encode_images(pixels)

    def project_kv(self, features: Tensor) -> Tensor:
        """Return image tokens (M, N, D) of patch features (M, N, V)."""
        return self.network.image_tokens(features)

    def rewards_from_kv(self, image_tokens: Tensor, token_ids: Tensor, mask: Tensor | None) -> Tensor:
        """Return scores (M K,) of image tokens (M, N, D) with K consecutive prompts each, (M K, L)."""
        logits = self.answer_logits(image_tokens, token_ids, mask)
        log_probabilities = logits.log_softmax(-1).gather(2, self.answer.expand(len(logits), -1)[..., None])
        return log_probabilities[..., 0].mean(1).exp()

    def answer_logits(self, image_tokens: Tensor, token_ids: Tensor, mask: Tensor | None) -> Tensor:
        """Return the logits (M K, tokens of the answer, rows of the vocabulary). Args as above."""
        pairs = image_tokens.repeat_interleave(len(token_ids) // len(image_tokens), dim=0)
        inputs, seen = self.network.encoder_inputs(pairs, token_ids, mask, self.tokenizer.image_index)
        return self.network.answer_logits(inputs, seen, self.answer)

    def mask_to_upload(self, mask: Tensor) -> Tensor | None:
        """Return the mask; None without padding, for which transformers would wait for the device."""
        return None if bool(mask.all()) else mask

    def _matrix(self, features: Tensor, prompts: PromptFeatures) -> Tensor:
        """Return the scores (M, P) of M images with all prompts."""
        count, path, upload = len(features), self.path(), transfers_for(self.device).upload
        image_tokens = path.project_kv(features)

        def scored(part: range) -> Tensor:
            token_ids, mask = prompts[part].trimmed()
            seen = self.mask_to_upload(mask.repeat(count, 1))
            several = upload(token_ids.repeat(count, 1))
            scores = path.rewards(image_tokens, several, None if seen is None else upload(seen))
            return scores.float().view(count, len(part))

        size = max(1, _PAIRS_AT_ONCE.get(self.device.type, 8) // count)
        return torch.cat(list(in_batches(scored, len(prompts), size, path.release_memory)), dim=1)


def _vision_file(files: ModelFiles, options: LoadOptions) -> Path:
    """Return the file of CLIP, for weights without an image encoder; it is downloaded if allowed.

    Raises:
        CheckpointError: a folder of local files does not have it.
    """
    if "vision" in files.parts:
        return files.parts["vision"]
    if options.files is not None:
        raise CheckpointError(
            f"Cannot load '{files.weights}': it has no image encoder. Copy {VISION.filename} of "
            f"{VISION.repo_id} into the subfolder {VISION.repo_id.rpartition('/')[2]}."
        )
    return fetch_file(VISION, options)
