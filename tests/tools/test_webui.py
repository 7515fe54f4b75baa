"""The WebUI extension in a small host: scores, infotexts, filter, sort, memory, failures."""

import re
import sys

import pytest
import torch
from webui_host import Host, paint

import reward_core as RM

PROMPT = "a purple square below a small yellow circle"
ON = (True, "tiny", False, 0, False)
ROUNDED = 0.5e-4 + 1e-5  # scores are written with four digits; batches of other sizes round differently


@pytest.fixture
def host(tmp_path, monkeypatch):
    host = Host(tmp_path)
    for name, made in host.modules.items():
        monkeypatch.setitem(sys.modules, name, made)
    yield host
    for name in [name for name in sys.modules if name.startswith("image_reward_webui")]:
        del sys.modules[name]


def scores(texts):
    return [float(re.search(r", ImageReward Score: (-?\d+\.\d{4})$", text).group(1)) for text in texts]


def generate(host, args, script=None, **settings):
    prompt = settings.pop("prompt", PROMPT)
    extra = {name: settings.pop(name) for name in ("masks", "stop_after") if name in settings}
    p = host.generation(prompt, **settings)
    vars(p).update(extra)
    processed = host.process_images(p, script or host.load_script(), args)
    assert host.errors == []
    assert p.extra_generation_params == {
        "VAE Decoder": "Full"
    }  # the next run of the same settings starts clean
    return processed


def images(processed):
    return processed.images[processed.index_of_first_image :]


# Scores


def test_every_saved_file_ends_with_the_score_of_its_own_prompt(host, model):
    prompts = [PROMPT, "a small red circle", PROMPT, "a green triangle"]
    processed = generate(host, ON, prompt=prompts, batch_size=2, n_iter=2)
    expected = [model.score(prompt, paint(prompt, 1 + i)) for i, prompt in enumerate(prompts)]
    assert scores(host.saved()) == pytest.approx(expected, abs=ROUNDED)
    assert scores(processed.infotexts[1:]) == scores(host.saved())
    assert [image.info["parameters"] for image in images(processed)] == host.saved()
    assert "ImageReward" not in processed.infotexts[0]  # the grid has no score
    shown = ", ".join(f"{score:.4f}" for score in scores(host.saved()))
    assert f"ImageReward Score: {shown}" in processed.comments
    assert "percentile" in processed.comments
    assert len(set(scores(host.saved()))) == 4


def test_a_disabled_extension_does_nothing(host):
    processed = generate(host, (False, "tiny", True, 99, True), batch_size=2)
    assert "ImageReward" not in "".join(processed.infotexts) + processed.comments
    assert len(images(processed)) == 2
    assert sys.modules["image_reward_webui.model_holder"].HOLDER.model is None


def test_prompt_syntax_of_the_webui_is_not_scored(host, model):
    prompt = "a (purple:1.3) square below a small yellow circle <lora:style:0.8>"
    generate(host, ON, prompt=prompt)
    expected = model.score(PROMPT, paint(PROMPT, 1))
    assert scores(host.saved()) == pytest.approx([expected], abs=ROUNDED)


def test_a_truncated_prompt_is_reported(host):
    script = host.load_script()
    long = PROMPT + ", masterpiece" * 20
    p = host.generation(PROMPT)
    host.modules["modules.prompt_parser"].parse_prompt_attention = lambda text: [[long, 1.0]]
    with pytest.warns(RM.errors.PromptTruncatedWarning):
        processed = host.process_images(p, script, ON)
    assert "not read: " in processed.comments
    assert host.errors == []


def test_images_are_scored_with_any_selected_script(host):
    for chosen in ("scripts/xyz_grid.py", "scripts/prompts_from_file.py"):
        processed = generate(host, ON, chosen=chosen)
        assert len(scores(processed.infotexts)) == 1


# The gallery


def middle(values: list[float]) -> float:
    """Return a limit that the better half of the scores reaches."""
    ordered = sorted(values)
    return sum(ordered[len(ordered) // 2 - 1 :][:2]) / 2


def test_low_scores_are_removed_from_the_gallery_but_saved(host):
    all_scores = scores(generate(host, ON, batch_size=2, n_iter=2).infotexts[1:])
    limit, before = middle(all_scores), len(host.saved())
    processed = generate(host, (True, "tiny", True, limit, False), batch_size=2, n_iter=2)
    assert scores(host.saved())[before:] == all_scores
    remaining = [i for i, score in enumerate(all_scores) if score >= limit]
    assert len(remaining) == 2
    assert scores(processed.infotexts[1:]) == [all_scores[i] for i in remaining]
    assert processed.all_seeds == [1 + i for i in remaining]
    assert len(images(processed)) == len(remaining)
    grid = processed.images[0]
    assert grid.size == (64 * len(remaining), 64)  # rebuilt from the kept images
    assert "parameters" in grid.info
    assert len(processed.all_prompts) == len(processed.all_subseeds) == len(remaining)
    assert processed.seed == processed.all_seeds[0]


def test_one_remaining_image_has_no_grid(host):
    all_scores = scores(generate(host, ON, batch_size=3).infotexts[1:])
    processed = generate(host, (True, "tiny", True, max(all_scores) - 1e-3, False), batch_size=3)
    assert processed.index_of_first_image == 0
    assert scores(processed.infotexts) == [max(all_scores)]


def test_filtering_every_image_shows_a_message(host):
    processed = generate(host, (True, "tiny", True, 99, True), batch_size=2)
    assert processed.images == processed.infotexts == []
    assert processed.index_of_first_image == 0
    best = max(scores(host.saved()))
    assert processed.info.startswith(
        "All 2 pictures were filtered out: none reached the lower score limit 99"
    )
    assert f"{best:.4f}" in processed.info
    assert processed.all_prompts == [PROMPT] * 2  # the host's JSON needs the first


def test_sorting_puts_the_best_first(host):
    processed = generate(host, (True, "tiny", False, 0, True), batch_size=4)
    shown = scores(processed.infotexts[1:])
    assert shown == sorted(scores(host.saved()), reverse=True) != scores(host.saved())
    order = [scores(host.saved()).index(score) for score in shown]
    assert processed.all_seeds == [1 + i for i in order]
    first = next(iter(images(processed)))
    assert first.tobytes() == paint(PROMPT, processed.all_seeds[0]).tobytes()


@pytest.mark.parametrize("masks", [False, True])
def test_masks_stay_with_their_images(host, masks):
    limit = middle(scores(generate(host, ON, batch_size=4).infotexts[1:]))
    before = len(host.saved())
    processed = generate(host, (True, "tiny", True, limit, True), batch_size=4, masks=masks)
    remaining = sorted((score for score in scores(host.saved()[before:]) if score >= limit), reverse=True)
    each = 2 if masks else 1
    assert [image.mode for image in images(processed)] == ["RGB", "L"][:each] * len(remaining)
    assert scores(processed.infotexts[1:]) == [score for score in remaining for _ in range(each)]


def test_an_interrupted_generation_keeps_finished_images(host):
    processed = generate(host, (True, "tiny", True, -99, True), batch_size=4, stop_after=2)
    assert len(images(processed)) == 2
    assert len(processed.all_seeds) == 2 or processed.all_seeds == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("chosen", "count"), [("scripts/xyz_grid.py", 2), ("scripts/prompts_from_file.py", 0), (None, 0)]
)
def test_images_are_not_filtered_if_a_script_needs_all(host, chosen, count):
    processed = generate(host, (True, "tiny", True, 99, True), batch_size=2, chosen=chosen)
    assert len(images(processed)) == count
    assert ("needs every picture" in processed.comments) == (count > 0)


@pytest.mark.parametrize("limit", [None, "", "abc", float("nan"), float("inf"), True, [1]])
def test_a_non_numeric_limit_is_reported_and_filters_nothing(host, limit):
    processed = generate(host, (True, "tiny", True, limit, False), batch_size=2)
    assert len(images(processed)) == 2
    assert "must be a number such as 0.5" in processed.comments


def test_a_limit_can_be_text(host):
    assert generate(host, (True, "tiny", True, " 99 ", False)).images == []


# The model


def test_the_model_is_loaded_once_and_survives_reload_ui(host):
    generate(host, ON)
    holder = sys.modules["image_reward_webui.model_holder"].HOLDER
    loaded = holder.model
    generate(host, ON, script=host.load_script())
    assert sys.modules["image_reward_webui.model_holder"].HOLDER.model is loaded is not None
    generate(host, (True, "tiny-judge", False, 0, False))
    assert holder.model is not loaded
    assert holder.name == "tiny-judge"


def test_unloading_frees_memory_and_reports_how_much(host, model):
    script = host.load_script()
    unload = type(script).ui.__globals__["_unload"]  # the button's callback
    assert unload() == "No reward model in memory."
    generate(host, ON, script=script)
    size = sum(t.numel() * t.element_size() for t in [*model.parameters(), *model.buffers()]) / 1e6
    assert unload() == f"tiny unloaded: {size:,.1f} MB freed."
    assert sys.modules["image_reward_webui.model_holder"].HOLDER.model is None
    assert len(scores(generate(host, ON, script=script).infotexts)) == 1  # loaded again


def test_a_folder_loads_as_a_model(host, model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "mine"
    model.save_pretrained(folder)
    generate(host, (True, f' "{folder}" ', False, 0, False))
    expected = model.score(PROMPT, paint(PROMPT, 1))
    assert scores(host.saved()) == pytest.approx([expected], abs=ROUNDED)


def test_a_missing_model_loses_no_image(host):
    processed = generate(host, (True, "/no/such/model", True, 0, True), batch_size=2)
    assert len(images(processed)) == 2
    assert "cannot score: Cannot find the model: '/no/such/model' is neither" in processed.comments
    assert processed.comments.count("cannot score") == 1
    assert "ImageReward" not in "".join(processed.infotexts)


def test_a_model_loaded_in_inference_mode_works_outside_it(host):
    """The host samples in inference mode; a model loaded in it must also work and move outside it."""
    with torch.inference_mode():
        generate(host, ON)
    holder = sys.modules["image_reward_webui.model_holder"].HOLDER
    assert not any(parameter.is_inference() for parameter in holder.model.parameters())
    assert len(scores(generate(host, ON).infotexts)) == 1


# The page


@pytest.mark.slow  # imports gradio
def test_the_page_shows_the_controls(host):
    gr = pytest.importorskip("gradio", reason="the page is made with gradio")
    script = host.load_script()
    with gr.Blocks():
        enabled, name, filters, limit, sort = script.ui(False)
    assert [c.value for c in (enabled, name, filters, limit, sort)] == [
        False,
        "ImageReward-v1.0",
        False,
        0,
        False,
    ]
    assert filters.label == "Filter out images with low scores"
    assert limit.label == "Lower score limit"
    assert [choice[0] for choice in name.choices] == RM.available_models()
    assert script.title() == "ImageReward - generate human preference scores"
    assert script.show(False) is script.show(True) is host.modules["modules.scripts"].AlwaysVisible
    assert (
        sys.modules["image_reward_webui.model_holder"].HOLDER.model is None
    )  # no model is loaded at the start
