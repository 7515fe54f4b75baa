"""Load VisionReward: the checklist, CogVLM2, which answers it, and VQAScore for the alignment."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from ...errors import InputError
from ...inputs.tokenizer import PromptTokenizer
from ...scoring.device import usable_device
from ...scoring.model_source import ModelSource
from ..cogvlm2.int8 import quantize_int8
from ..cogvlm2.prompts import QuestionTokenizer
from ..cogvlm2.yes_no_model import YesNoModel
from ..load_options import LoadOptions
from ..model_files import ModelFiles
from ..tensor_files import PIECES, files_of
from ..vqascore.published import VQA_MODELS
from ..vqascore.scorer import VqaScorer
from .checklist import Checklist, published_structure, read_checklist
from .cogvlm2_weights import convert_pieces, load_cogvlm2
from .scorer import ChecklistReward

_ALIGNMENT = "alignment_"  # of the names of VQAScore's parts


class VisionRewardLoader:
    """The loader that the specification of VisionReward names."""

    @classmethod
    def load_files(cls, files: ModelFiles, options: LoadOptions) -> ChecklistReward:
        """Load a scorer from its files, in evaluation mode with frozen parameters.

        Precision "exact" is that of the authors on a GPU, bfloat16, and float32 elsewhere. "fast" is bfloat16
        everywhere, and "int8" is too, with the weights of the checklist model's linear layers in int8. The
        arithmetic of the checklist is float64 in all.

        Raises:
            InputError: the device or the precision cannot be used.
            CheckpointError: damaged files; KeyMismatchError if the weights do not match the model.
            HubError: a failed download. DiskFullError: no space for the converted weights.
            MissingExtraError: "int8" without torchao.
        """
        device = usable_device(options.device)
        if options.med_config is not None:
            raise InputError("Cannot use med_config: this model does not have BERT as text encoder.")
        checklist = cls.read_config(files)
        dtype = _dtype(options.precision, device)
        weights = _weights(files)
        small = options.precision == "int8"
        network = load_cogvlm2(
            weights, files.parts.get("config"), torch.device("cpu") if small else device, dtype
        )
        if small:
            quantize_int8(network)  # before the GPU holds it
            network.to(device)
        network.set_gradient_checkpointing(True)  # without it a gradient needs 70 GB an image
        tokenizer = QuestionTokenizer.from_file(files.parts["tokenizer"], network.config.vocab_size)
        alignment: VqaScorer | None = None
        if checklist.alignment_weight:
            precision = "exact" if dtype == torch.float32 else "fast"
            same = replace(options, device=device, precision=precision)
            alignment = VqaScorer.load_files(_alignment_files(files), same)
        model = ChecklistReward(YesNoModel(network, tokenizer), checklist, alignment)
        questions = files.parts.get("checklist")
        used = [*files_of(weights), *([] if questions is None else [questions])]
        if alignment is not None and alignment.source is not None:
            used += alignment.source.weights
        model.source = ModelSource(files.source.name, tuple(used))
        return model.eval().requires_grad_(False)

    @classmethod
    def read_config(cls, files: ModelFiles) -> Checklist:
        """Return the checklist: a checklist file, or the authors' questions with their weights.

        The questions have no text if they could not be downloaded.
        """
        path = files.parts.get("checklist")
        return published_structure() if path is None else read_checklist(path)

    @classmethod
    def find_tokenizer(cls, files: ModelFiles, config: Checklist, options: LoadOptions) -> PromptTokenizer:
        """Return the tokenizer of prompts, that of the alignment model."""
        alignment = _alignment_files(files)
        return VqaScorer.find_tokenizer(alignment, VqaScorer.read_config(alignment), options)


def _dtype(precision: str, device: torch.device) -> torch.dtype:
    fast = precision in ("fast", "int8") or device.type == "cuda"
    return torch.bfloat16 if fast else torch.float32


def _weights(files: ModelFiles) -> Path:
    """Return the weights; downloaded pieces are converted first."""
    weights = files.weights
    if files.converted is not None and weights.match(PIECES):
        return convert_pieces(weights, files.converted)
    return weights


def _alignment_files(files: ModelFiles) -> ModelFiles:
    """Return the files of VQAScore."""
    parts = {
        role.removeprefix(_ALIGNMENT): path
        for role, path in files.parts.items()
        if role.startswith(_ALIGNMENT)
    }
    source = ModelSource("VQAScore", (parts["weights"],))
    return ModelFiles(parts, VQA_MODELS["VQAScore"].config, source)
