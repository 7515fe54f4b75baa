"""CLIP, PickScore, HPSv2.1 and Aesthetic at small sizes, compared with transformers."""

import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

import reward_core as RM
from reward_core.errors import CheckpointError, HubError, InputError, KeyMismatchError
from reward_core.models.clip.config import ClipConfig
from reward_core.models.clip.transform import MEAN, STD
from reward_core.network.reward_head import RewardHead

SMALL = ClipConfig(
    image_size=28, patch_size=14, vision_width=32, vision_depth=2, vision_heads=2, vision_mlp=64,
    text_width=24,
    text_depth=2, text_heads=2, text_mlp=48, vocab_size=260, max_length=16, proj_dim=20,
)  # fmt: skip
PROMPTS = ["a red house", "a dog, by the sea and far away from here", "Cat"]
# Both compute the same float32 sums in different order. Measured: at most 1.2e-7.
TOLERANCE = 1e-6


def tokenizer():
    """Write a tokenizer of letters, in which the last two of 260 tokens are CLIP's ends."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {letter: i for i, letter in enumerate([*letters, "<x>", "<y>"])}
    vocab |= {"<|startoftext|>": 258, "<|endoftext|>": 259}
    made = Tokenizer(models.BPE(vocab, []))
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.post_processor = processors.TemplateProcessing(
        "<|startoftext|> $A <|endoftext|>", special_tokens=[("<|startoftext|>", 258), ("<|endoftext|>", 259)]
    )
    return made


def to_open_clip(state):
    """Return weights of transformers under open_clip's names."""
    open_clip = {}
    for side, prefix in (("vision_model", "visual."), ("text_model", "")):
        layers = {k.split(".")[3] for k in state if k.startswith(f"{side}.encoder.layers.")}
        for n in layers:
            old, new = f"{side}.encoder.layers.{n}.", f"{prefix}transformer.resblocks.{n}."
            for leaf in ("weight", "bias"):
                qkv = [state[f"{old}self_attn.{p}_proj.{leaf}"] for p in "qkv"]
                open_clip[f"{new}attn.in_proj_{leaf}"] = torch.cat(qkv)
                open_clip[f"{new}attn.out_proj.{leaf}"] = state[f"{old}self_attn.out_proj.{leaf}"]
                for a, b in (("layer_norm1", "ln_1"), ("layer_norm2", "ln_2"), ("mlp.fc1", "mlp.c_fc")):
                    open_clip[f"{new}{b}.{leaf}"] = state[f"{old}{a}.{leaf}"]
                open_clip[f"{new}mlp.c_proj.{leaf}"] = state[f"{old}mlp.fc2.{leaf}"]
    for leaf in ("weight", "bias"):
        open_clip[f"visual.ln_pre.{leaf}"] = state[f"vision_model.pre_layrnorm.{leaf}"]
        open_clip[f"visual.ln_post.{leaf}"] = state[f"vision_model.post_layernorm.{leaf}"]
        open_clip[f"ln_final.{leaf}"] = state[f"text_model.final_layer_norm.{leaf}"]
    open_clip["visual.class_embedding"] = state["vision_model.embeddings.class_embedding"]
    open_clip["visual.positional_embedding"] = state["vision_model.embeddings.position_embedding.weight"]
    open_clip["visual.conv1.weight"] = state["vision_model.embeddings.patch_embedding.weight"]
    open_clip["visual.proj"] = state["visual_projection.weight"].T.contiguous()
    open_clip["text_projection"] = state["text_projection.weight"].T.contiguous()
    open_clip["token_embedding.weight"] = state["text_model.embeddings.token_embedding.weight"]
    open_clip["positional_embedding"] = state["text_model.embeddings.position_embedding.weight"]
    open_clip["logit_scale"] = state["logit_scale"]
    open_clip["attn_mask"] = torch.zeros(16, 16)
    return open_clip


@pytest.fixture(scope="module")
def reference():
    torch.manual_seed(0)
    model = SMALL.build().eval()
    for parameter in model.parameters():  # replace initial zeros and tiny numbers
        torch.nn.init.normal_(parameter, std=0.15)
    torch.nn.init.constant_(model.logit_scale, 2.5)
    return model


@pytest.fixture
def make(reference, tmp_path):
    def make(config=SMALL, state=None, form="safetensors"):
        state = reference.state_dict() if state is None else state
        (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
        tokenizer().save(str(tmp_path / "tokenizer.json"))
        if form == "safetensors":
            save_file(dict(state), tmp_path / "model.safetensors")
            return tmp_path
        torch.save({"epoch": 1, "state_dict": state}["state_dict"], tmp_path / "weights.pt")
        return tmp_path / "weights.pt"

    return make


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    sizes = ((28, 28), (50, 40), (30, 61))
    return [Image.fromarray(rng.integers(0, 256, (h, w, 3), dtype=np.uint8)) for w, h in sizes]


def reference_scores(reference, pixels, prompts):
    """Return (logits, cosines) of transformers, computed with batch size 1."""
    logits = []
    for image, prompt in zip(pixels, prompts):
        ids = tokenizer().encode(prompt).ids
        ids = ids if len(ids) <= 16 else [*ids[:15], 259]
        padded = torch.tensor([ids + [259] * (16 - len(ids))])
        with torch.no_grad():
            logits.append(reference(input_ids=padded, pixel_values=image[None]).logits_per_image[0, 0])
    logits = torch.stack(logits)
    return logits, logits / reference.logit_scale.exp()


def by_processor(images):
    """Return the pixels of the CLIP processor of transformers."""
    processor = CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    return processor(images, return_tensors="pt")["pixel_values"]


def by_torchvision(images):
    """Return the pixels of OpenAI's transform: bicubic, center crop, mean and std."""
    crops = []
    for image in images:
        width, height = image.size
        scale = 28 / min(width, height)
        size = (28, int(height * scale)) if width <= height else (int(width * scale), 28)
        small = np.asarray(image.resize(size, Image.Resampling.BICUBIC), np.float32)
        top, left = round((small.shape[0] - 28) / 2), round((small.shape[1] - 28) / 2)
        crop = small[top : top + 28, left : left + 28] / 255
        crops.append(torch.from_numpy(((crop - np.array(MEAN)) / np.array(STD)).astype(np.float32)))
    return torch.stack(crops).permute(0, 3, 1, 2)


@pytest.mark.filterwarnings("ignore::reward_core.errors.PromptTruncatedWarning")
@pytest.mark.parametrize("scaled", [False, True])
def test_clip_and_pickscore_equal_transformers(make, reference, images, scaled):
    scorer = RM.load_score(make(replace(SMALL, scaled=scaled)), device="cpu")
    assert isinstance(scorer, RM.Scorer)
    # CLIP uses OpenAI's transform, PickScore the processor. Their crops differ by half a pixel.
    pixels = by_processor(images) if scaled else by_torchvision(images)
    expected = reference_scores(reference, pixels, PROMPTS)[0 if scaled else 1]
    tolerance = TOLERANCE * (12.2 if scaled else 1)
    torch.testing.assert_close(scorer.score_pairs(PROMPTS, images), expected, atol=tolerance, rtol=0)
    matrix = scorer.score_matrix(PROMPTS, images)
    torch.testing.assert_close(matrix.diagonal(), expected, atol=tolerance, rtol=0)
    features = scorer.encode_images(images)
    torch.testing.assert_close(scorer.score_pairs(PROMPTS, features), expected, atol=tolerance, rtol=0)
    ranking, rewards = scorer.inference_rank(PROMPTS[0], images)  # PIL images
    assert sorted(ranking) == [1, 2, 3]
    assert rewards == pytest.approx(matrix[0].tolist())


@pytest.mark.filterwarnings("ignore::reward_core.errors.PromptTruncatedWarning")
def test_features_can_be_used_by_models_with_the_same_weights(make, reference, images):
    scorer = RM.load_score(make(), device="cpu")
    pickled = pickle.dumps((scorer.encode_prompts(PROMPTS), scorer.encode_images(images)))
    expected = scorer.score_pairs(PROMPTS, images)
    again = RM.load_score(make(), device="cpu")
    read, seen = pickle.loads(pickled)
    torch.testing.assert_close(again.score_pairs(read, seen), expected)
    state = {key: value + 0.01 * (value.ndim == 2) for key, value in reference.state_dict().items()}
    other = RM.load_score(make(state=state), device="cpu")
    with pytest.raises(InputError, match="image features of another model"):
        other.score_pairs(PROMPTS, seen)
    with pytest.raises(InputError, match="prompt features of another model"):
        other.score_pairs(read, images)


@pytest.mark.filterwarnings("ignore::reward_core.errors.PromptTruncatedWarning")
def test_hps_from_open_clip_weights_with_padding(make, reference, images):
    config = replace(SMALL, fit="pad")
    scorer = RM.load_score(make(config, to_open_clip(reference.state_dict()), "pt"), device="cpu")
    pixels = []
    for image in images:
        raw = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255
        height, width = raw.shape[-2:]
        size = (round(height * 28 / max(height, width)), round(width * 28 / max(height, width)))
        small = torch.nn.functional.interpolate(raw, size, mode="bicubic", antialias=True)[0]
        black = torch.zeros(3, 28, 28)
        top, left = (28 - size[0]) // 2, (28 - size[1]) // 2
        black[:, top : top + size[0], left : left + size[1]] = small
        pixels.append((black - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None])
    expected = reference_scores(reference, torch.stack(pixels), PROMPTS)[1]
    torch.testing.assert_close(scorer.score_pairs(PROMPTS, images), expected, atol=TOLERANCE, rtol=0)


@pytest.mark.filterwarnings("ignore::reward_core.errors.PromptTruncatedWarning")
def test_aesthetic_is_a_head_on_the_image_vector(reference, make, images, tmp_path):
    torch.manual_seed(1)
    head, config = RewardHead((20, 16, 8, 8, 4, 1)).eval(), replace(SMALL, head=(16, 8, 8, 4, 1))
    state = reference.state_dict() | {f"head.{key}": value for key, value in head.state_dict().items()}
    aesthetic = RM.load_score(make(config, state), device="cpu")
    features = aesthetic.encode_images(images)
    scores = aesthetic.score_pairs(PROMPTS, features)
    x = features.data
    for layer in head.layers:
        x = layer(x)
    torch.testing.assert_close(scores, x.detach()[:, 0])
    torch.testing.assert_close(scores, aesthetic.score_pairs(["other"] * 3, images))
    aesthetic.save_pretrained(tmp_path / "saved")
    saved = RM.load_score(tmp_path / "saved", device="cpu")
    torch.testing.assert_close(saved.score_pairs(PROMPTS, images), scores)
    clip = RM.load_score(make(), device="cpu")
    torch.testing.assert_close(aesthetic.score_pairs(PROMPTS, clip.encode_images(images)), scores)
    with pytest.raises(KeyMismatchError, match="wrong shape"):
        RM.load_score(make(replace(config, head=(16, 8, 8, 5, 1)), state), device="cpu")


def test_gradients_reach_the_pixels_and_16_bit_scores_are_close(make, images):
    folder = make()
    scorer = RM.load_score(folder, device="cpu")
    pixels = torch.rand(2, 3, 40, 33, requires_grad=True)
    scorer.rewards_from_pixels(pixels, PROMPTS[:1] + PROMPTS[2:]).sum().backward()
    assert pixels.grad.abs().max() > 0
    exact = scorer.score(PROMPTS[0], images)
    scorer.set_encoder_dtype(torch.bfloat16)
    assert scorer.score(PROMPTS[0], images) == pytest.approx(exact, abs=0.05)  # cosines; measured: 0.01


def test_a_clip_converted_for_autocast_computes_the_same_under_it(make):
    scorer = RM.load_score(make(), device="cpu").requires_grad_(False)
    pixels = torch.rand(3, 3, 40, 33, requires_grad=True)
    results = []
    for _ in range(2):
        with torch.autocast("cpu", torch.bfloat16):
            scores = scorer.rewards_from_pixels(pixels, PROMPTS)
        results.append((scores, *torch.autograd.grad(scores.sum(), pixels)))
        scorer.convert_for_autocast(torch.bfloat16)
    assert scorer.clip.visual_projection.weight.dtype == torch.bfloat16
    torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=1e-6)


def test_strict_loading(make, reference):
    state = reference.state_dict()
    state.pop("visual_projection.weight")
    with pytest.raises(KeyMismatchError, match=r"clip\.visual_projection\.weight"):
        RM.load_score(make(state=state), device="cpu")
    folder = make()
    (folder / "config.json").write_text(json.dumps({**SMALL.to_dict(), "colour": 1}))
    with pytest.raises(CheckpointError, match="colour"):
        RM.load_score(folder, device="cpu")


def test_a_wrong_checksum_is_refused(tmp_path):
    (tmp_path / "sac+logos+ava1-l14-linearMSE.pth").write_bytes(b"another file")
    from reward_core.hub.downloads import fetch
    from reward_core.models.clip.published import AESTHETIC_HEAD

    with pytest.raises(HubError, match="sha256"):
        fetch(AESTHETIC_HEAD, tmp_path, local_files_only=True)
