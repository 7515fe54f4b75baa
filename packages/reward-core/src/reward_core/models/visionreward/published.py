"""The published VisionReward-Image. It loads without torch."""

from __future__ import annotations

from dataclasses import replace

from ...hub.file_specs import HubFile, HubPieces, WebFile
from ..model_spec import ModelSpec, Part
from ..scorer_facts import License, ScorerFacts
from ..vqascore.published import VQA_MODELS

_COMMIT = "511960d61a777b2008cd486a85a090ba96792a32"
_CARD = "https://huggingface.co/zai-org/VisionReward-Image-bf16"
_ALIGNMENT = VQA_MODELS["VQAScore"]

QUESTIONS = WebFile(
    f"https://raw.githubusercontent.com/THUDM/VisionReward/{_COMMIT}"
    "/VisionReward_Image/VisionReward_image_qa_select.txt",
    "VisionReward_image_qa_select.txt",
    sha256="2b603df2f4e30fe8879d85e1bf38f30ad8292278b939e31bf88bf7cf9ff22c33",
    max_bytes=2**16,
    size="1 kB",
)
WEIGHTS = HubPieces(
    "zai-org/VisionReward-Image-bf16",
    "ckpts/split_part_*",
    fallback_repo_id="THUDM/VisionReward-Image-bf16",
    size="39.0 GB",
    converted="VisionReward-Image-bf16",
)
# Meta's own repository asks for a login. This copy of its vocabulary does not.
TOKENIZER = HubFile("NousResearch/Meta-Llama-3-8B-Instruct", "tokenizer.json", size="9.1 MB", own_folder=True)


def _in_folder(part: Part) -> Part:
    """Return a part of VQAScore that a folder of local files has in a subfolder, where names are its own."""
    folders = ("alignment", "clip-flant5-xxl")
    own = part.names if part.names == ("spiece.model",) else ()  # no other part has this name
    names = tuple(f"{folder}/{name}" for folder in folders for name in part.names)
    return replace(part, names=(*names, *own))


VISIONREWARD_MODELS: dict[str, ModelSpec] = {
    "VisionReward": ModelSpec(
        "reward_core.models.visionreward.loading:VisionRewardLoader",
        {
            "weights": Part(
                WEIGHTS,
                (
                    "split_part_*", "ckpts/split_part_*", "model.safetensors.index.json", "model.safetensors",
                    "weights_sat.safetensors", "weights_hf.safetensors", "mp_rank_00_model_states.pt",
                    "*/mp_rank_00_model_states.pt",
                ),
                subfolder="checklist",
            ),
            "config": Part(
                None,
                ("model_config.json", "config.json", "config_sat.json", "config_hf.json"),
                subfolder="checklist",
                required=False,
            ),
            "tokenizer": Part(TOKENIZER, ("tokenizer.json",)),
            "checklist": Part(QUESTIONS, ("checklist.json", QUESTIONS.filename), fetched_if_missing=True),
            **{f"alignment_{role}": _in_folder(part) for role, part in _ALIGNMENT.parts.items()},
        },
        None,
        ScorerFacts(
            "weighted answers of CogVLM2 to 30 yes/no questions about the image, and VQAScore",
            parameters=19_503_105_280 + _ALIGNMENT.facts.parameters,
            gigabytes=round(39.0 + _ALIGNMENT.facts.gigabytes, 1),
            hardware="GPU with 80 GB (unmeasured)",
            score_range="-2.162 to 4.891",
            training_data="answers and preferences of people about images",
            code_license=License("Apache-2.0", "https://github.com/THUDM/VisionReward/blob/main/LICENSE"),
            weights_license=License("CogVLM2 and Llama 3", _CARD),
            citation="arXiv 2412.21059",
        ),
    ),
}  # fmt: skip
