"""CogVLM2 at tiny size with the authors' weights and numbers (tests/data/parity_visionreward)."""

import json
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load_file

from reward_core.models.cogvlm2.config_files import read_cogvlm2_config
from reward_core.models.cogvlm2.key_map import to_own_keys
from reward_core.models.cogvlm2.network import CogVlm2
from reward_core.models.cogvlm2.prompts import QuestionTokenizer
from reward_core.models.cogvlm2.yes_no_model import YesNoModel

DATA = Path(__file__).parent / "data" / "parity_visionreward"
PAIRS = json.loads((DATA / "checklist" / "pairs.json").read_text())["pairs"]
QUESTIONS = [pair["question"] for pair in PAIRS]
IMAGES = list(dict.fromkeys(pair["picture"] for pair in PAIRS))  # each name once
TENSORS = load_file(DATA / "checklist" / "tensors.safetensors")


def image_file(name):
    return DATA / "pictures" / f"{name}.png"


def published_config(form="sat"):
    """Return the content of the configuration file of a published form."""
    return json.loads((DATA / "checklist" / f"config_{form}.json").read_text())


def published_weights(form="sat"):
    """Return the weights under the names of a published form."""
    files = (DATA / "checklist" / f"weights_sat_{part}.safetensors" for part in ("vision", "language"))
    weights = {key: value for file in files for key, value in load_file(file).items()}
    if form == "sat":
        return weights
    names = json.loads((DATA / "checklist" / "keymap_sat_to_hf.json").read_text())
    lists = {sat: hf if isinstance(hf, list) else [hf] for sat, hf in names.items()}
    return {hf: weights[sat] for sat, names in lists.items() for hf in names}


def reference_model(form="sat"):
    """Return the tiny model, frozen, with the weights of a published form."""
    config = read_cogvlm2_config(published_config(form), form)
    network = CogVlm2(config).requires_grad_(False)
    network.load_state_dict(to_own_keys(published_weights(form), config, form))
    tokenizer = QuestionTokenizer.from_file(DATA / "tokenizer" / "tokenizer.json", config.vocab_size)
    return YesNoModel(network, tokenizer)


def pixels_of(model, *names):
    """Return normalized pixels (B, 3, 84, 84) of images: the reference's if stored, else the model's."""
    return torch.stack([_pixels(model, name) for name in names])


def _pixels(model, name):
    stored = TENSORS.get(f"img.{name}.pixels")
    return model.transform.from_pil(Image.open(image_file(name))) if stored is None else stored
