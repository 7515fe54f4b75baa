"""The ComfyUI nodes in a small host: scores, lists, empty results, saved files, workflows."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from comfy_host import EXTENSION, ExecutionBlocker, Host, run
from PIL import Image

import reward_core as RM
from reward_core import shapes

GROUP = next(shapes.make_groups(1, replace(shapes.HELD_OUT, images=(5, 5)), split="held_out", start=2))
PROMPT = GROUP.prompt
# Nothing is resized at the model's 64 px, so scores differ by float rounding only (7e-7 measured).
CLOSE = 1e-5


@pytest.fixture
def host(tmp_path, monkeypatch):
    host = Host(tmp_path)
    for name, made in host.modules.items():
        monkeypatch.setitem(sys.modules, name, made)
    yield host
    for name in [name for name in sys.modules if name.startswith("comfy_reward_nodes")]:
        del sys.modules[name]


@pytest.fixture
def nodes(host):
    return {name.removeprefix("RewardCore"): node for name, node in host.load_nodes().items()}


@pytest.fixture
def reward_model(nodes):
    return run(nodes["LoadModel"], model="tiny", precision="exact")[0][0]


def images():
    return torch.from_numpy(GROUP.images.astype(np.float32) / 255)  # (5, 64, 64, 3)


def score(nodes, reward_model, images, prompt=PROMPT, per_line=False):
    return run(
        nodes["ScoreImages"],
        reward_model=reward_model,
        images=images,
        prompt=prompt,
        prompt_per_line=per_line,
    )


def truth(model, prompts=(PROMPT,) * 5):
    return [model.score(p, Image.fromarray(image)) for p, image in zip(prompts, GROUP.images)]


# Score Images


def test_a_batch_gives_one_score_per_image(nodes, host, model, reward_model):
    (scores, report, preview, prompts), ui = score(nodes, reward_model, images())
    assert scores == pytest.approx(truth(model), abs=CLOSE)
    assert len(set(scores)) == 5
    assert prompts == [PROMPT] * 5
    for i, value in enumerate(scores):
        assert f"{i}: {value:.4f}  percentile {model.percentile(value):.0f}  {PROMPT}" in report
    assert model.config.score_quantiles.source in report
    assert [batch.shape for batch in preview] == [(5, 256, 256, 3)]
    assert [image["type"] for image in ui["images"]] == ["temp"] * 5
    assert host.bar == 5


def test_the_preview_shows_the_score(nodes, reward_model):
    preview = score(nodes, reward_model, images()[:1])[0][2][0][0]
    enlarged = images()[0].repeat_interleave(4, 0).repeat_interleave(4, 1)
    changed = (preview - enlarged).abs().amax(-1) > 0.02
    assert changed[-36:].any()
    assert not changed[:-40].any()  # only at the bottom


def test_every_image_can_have_its_own_prompt(nodes, model, reward_model):
    prompts = [PROMPT, "a small red circle", "a green triangle", PROMPT, "a red square"]
    expected = pytest.approx(truth(model, prompts), abs=CLOSE)
    assert score(nodes, reward_model, images(), prompts)[0][0] == expected  # a list
    lines = "\n".join(prompts)
    (scores, _, _, given), _ = score(nodes, reward_model, images(), lines, per_line=True)
    assert scores == expected
    assert given == prompts
    with pytest.raises(ValueError, match="Cannot score 5 pictures with 2 prompts"):
        score(nodes, reward_model, images(), [PROMPT, PROMPT])


def test_a_list_may_mix_sizes_and_channels(nodes, model, reward_model):
    big = torch.nn.functional.interpolate(images()[1:2].permute(0, 3, 1, 2), scale_factor=2).permute(
        0, 2, 3, 1
    )
    with_alpha = torch.cat([images()[2:3], torch.rand(1, 64, 64, 1)], -1)
    gray = images()[3:4].mean(-1, keepdim=True)
    (scores, _, preview, _), _ = score(nodes, reward_model, [images()[:1], big, with_alpha, gray])
    expected = truth(model)
    assert scores[0] == pytest.approx(expected[0], abs=CLOSE)
    # Enlarged by whole pixels and resized back with bicubic: almost the same image.
    assert scores[1] == pytest.approx(expected[1], abs=0.5)
    assert scores[2] == pytest.approx(expected[2], abs=CLOSE)
    assert np.isfinite(scores[3])
    assert [len(batch) for batch in preview] == [4]  # all previews have one size


def test_images_that_do_not_fit_in_memory_are_scored_in_smaller_batches(
    nodes, model, reward_model, monkeypatch
):
    all_scores = reward_model.score(list(images()), [PROMPT] * 5)
    sizes, compute = [], type(reward_model.model).forward

    def forward(self, pixels, *rest):
        sizes.append(len(pixels))
        if len(pixels) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return compute(self, pixels, *rest)

    monkeypatch.setattr(type(reward_model.model), "forward", forward)
    assert reward_model.score(list(images()), [PROMPT] * 5) == pytest.approx(all_scores, abs=CLOSE)
    assert sizes == [5, 5, 4, 2, 2, 1]


def test_the_host_manages_memory(nodes, host, reward_model):
    score(nodes, reward_model, images())
    assert host.loads == [([reward_model.patcher], True)]
    assert reward_model.patcher.model.model is reward_model.model


def test_nan_pixels_are_refused(nodes, reward_model):
    broken = images()
    broken[3] = float("nan")
    with pytest.raises(ValueError, match="picture 3"):
        score(nodes, reward_model, broken)


def test_long_and_empty_prompts_are_reported(nodes, reward_model):
    with pytest.warns(RM.errors.PromptTruncatedWarning):
        report = score(nodes, reward_model, images()[:1], PROMPT + ", masterpiece" * 20)[0][1]
    assert "the prompt is too long; not read: " in report
    with pytest.warns(RM.errors.EmptyPromptWarning):
        report = score(nodes, reward_model, images()[:1], "")[0][1]
    assert "the prompt is empty" in report


# Load Reward Model


def test_models_load_by_name_folder_and_path(nodes, host, model):
    folder = host.folder / "models" / "reward_models" / "mine"
    assert nodes["LoadModel"].INPUT_TYPES()["required"]["model"][0] == RM.available_models()
    model.save_pretrained(folder)
    assert nodes["LoadModel"].INPUT_TYPES()["required"]["model"][0] == [*RM.available_models(), "mine"]
    for given in ({"model": "mine"}, {"model": "ImageReward-v1.0", "path": f" {folder} "}):
        loaded = run(nodes["LoadModel"], precision="exact", **given)[0][0]
        assert loaded.score(list(images()), [PROMPT] * 5) == pytest.approx(truth(model), abs=CLOSE)
    changed = nodes["LoadModel"].IS_CHANGED
    before = changed("mine", "exact")
    assert before == changed("mine", "exact")
    (folder / "config.json").write_text((folder / "config.json").read_text() + "\n")
    assert changed("mine", "exact") != before  # retrained, so loaded again
    with pytest.raises(RM.RewardCoreError, match="no-such-model"):
        run(nodes["LoadModel"], model="no-such-model", precision="exact")


# Pick Best / Filter

SCORES = [0.5, -1.0, 2.0, 0.5, 1.0]


def pick(nodes, **changed):
    settings = {"top_k": 0, "use_threshold": False, "threshold": 0.0, "if_none": "stop here"}
    return run(nodes["PickBest"], **{"images": images(), "scores": SCORES, **settings, **changed})


@pytest.mark.parametrize(
    ("settings", "indices"),
    [
        ({}, [2, 4, 0, 3, 1]),
        ({"top_k": 1}, [2]),
        ({"top_k": 3}, [2, 4, 0]),
        ({"top_k": 99}, [2, 4, 0, 3, 1]),
        ({"use_threshold": True, "threshold": 0.5}, [2, 4, 0, 3]),
        ({"use_threshold": True, "threshold": 0.5, "top_k": 2}, [2, 4]),
        ({"threshold": 5.0, "top_k": 2}, [2, 4]),
        ({"use_threshold": True, "threshold": 5.0, "if_none": "keep the best"}, [2]),
    ],
    ids=str,
)
def test_pick_best_selects_by_score(nodes, settings, indices):
    prompts = [f"prompt {i}" for i in range(5)]
    (batches, scores, selected, given), _ = pick(nodes, prompts=prompts, **settings)
    assert selected == indices
    assert scores == [SCORES[i] for i in indices]
    assert given == [prompts[i] for i in indices]
    assert len(batches) == 1
    assert torch.equal(batches[0], images()[indices])


def test_an_empty_result_skips_the_following_nodes_or_fails(nodes):
    none = {"use_threshold": True, "threshold": 5.0}
    result, ui = pick(nodes, **none)
    assert all(isinstance(value, ExecutionBlocker) and value.message is None for value in result)
    assert ui["text"] == ["none of 5 pictures reaches 5; the best has 2.0000"]
    with pytest.raises(ValueError, match=r"the best has 2\.0000"):
        pick(nodes, if_none="fail", **none)


def test_numbers_that_do_not_match_are_refused(nodes):
    with pytest.raises(ValueError, match="2 scores for 5 pictures"):
        pick(nodes, scores=[1.0, 2.0])
    with pytest.raises(ValueError, match="no pictures"):
        pick(nodes, images=[], scores=[])


def test_images_of_different_sizes_stay_in_separate_batches(nodes):
    other = torch.zeros(1, 32, 32, 3)
    (batches, _, selected, _), _ = pick(nodes, images=[images()[:2], other], scores=[0.0, 2.0, 1.0])
    assert selected == [1, 2, 0]
    assert [tuple(batch.shape) for batch in batches] == [(1, 64, 64, 3), (1, 32, 32, 3), (1, 64, 64, 3)]


# Save with Score


def test_files_carry_their_score_and_the_workflow(nodes, host):
    _, ui = run(
        nodes["SaveWithScore"],
        images=images(),
        scores=SCORES,
        filename_prefix="best",
        prompts=[PROMPT],
        prompt={"1": {}},
        extra_pnginfo=[{"workflow": {"nodes": [1]}}],
    )
    assert len(ui["images"]) == 5
    for i, saved in enumerate(ui["images"]):
        file = Image.open(host.folder / saved["filename"])
        texts = {key: json.loads(value) for key, value in file.info.items()}
        assert texts == {
            "prompt": {"1": {}},
            "workflow": {"nodes": [1]},
            "ImageReward Score": SCORES[i],
            "ImageReward Prompt": PROMPT,
        }
        assert np.array_equal(np.array(file), GROUP.images[i])


# Workflows


@pytest.mark.parametrize(
    "file", sorted((EXTENSION / "example_workflows").glob("*.json")), ids=lambda f: f.stem
)
def test_workflows_fit_the_nodes(host, file):
    """The workflows were saved by ComfyUI; names and types of all sockets must match the nodes."""
    classes = host.load_nodes()
    workflow = json.loads(file.read_text())
    ours = [node for node in workflow["nodes"] if node["type"] in classes]
    assert len(ours) == len(classes)
    for node in ours:
        cls = classes[node["type"]]
        kinds = {
            name: spec[0]
            for part in ("required", "optional")
            for name, spec in cls.INPUT_TYPES().get(part, {}).items()
        }
        for socket in node["inputs"]:
            if not isinstance(kinds[socket["name"]], list):
                assert socket["type"] == kinds[socket["name"]]
        assert {socket["name"] for socket in node["inputs"]} == set(kinds)
        assert [socket["type"] for socket in node["outputs"]] == list(cls.RETURN_TYPES)
        assert [socket["name"] for socket in node["outputs"]] == list(getattr(cls, "RETURN_NAMES", ()))
    ids = {node["id"] for node in workflow["nodes"]}
    assert all(link[1] in ids and link[3] in ids for link in workflow["links"])
