"""What a run writes for the person who watches it: images, sheet, curves and page."""

import json
import math
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import torch
from PIL import Image
from toy_runs import PROMPTS, redness, train

from refl.data.run_prompts import split_prompts
from refl.records.curve_svg import panel_svg
from refl.records.curves import Line, Panel, panels_of
from refl.records.run_page import RunPage
from refl.records.samples import read_samples
from refl.training_state import ReflState

HOSTILE = 'a <b> & "c" \u202e\n$x'


@pytest.fixture(scope="module")
def watched(pipelines, tmp_path_factory):
    """A run of two steps, validated on prompts of a file."""
    folder = tmp_path_factory.mktemp("watched")
    (folder / "mine.txt").write_text("\n".join(["red fox", "blue <b>sea</b>", "a green hill"]))
    run = folder / "run"
    settings = [f"validation.prompts_file={folder / 'mine.txt'}", "validation.seeds=2", "optimizer.lr=0.03"]
    trainer, rows = train(pipelines("sd"), run, *settings, steps=2)
    return trainer, rows, run


def test_validation_uses_the_prompts_of_its_file_and_trains_on_all_others(watched):
    trainer, rows, run = watched
    assert trainer.validation_prompts == ["red fox", "blue <b>sea</b>", "a green hill"]
    assert trainer.prompts == PROMPTS
    samples = read_samples(run, [0, 1, 2])
    assert [s.step for s in samples] == [0, 2]
    logged = [row["validation/red"] for row in rows if "validation/red" in row]
    for validation, mean in zip(samples, logged):
        assert validation.prompts == tuple(trainer.validation_prompts)
        assert validation.interval("red")[0] == pytest.approx(mean)


def test_each_image_is_kept_with_its_reward(watched):
    _, _, run = watched
    last = read_samples(run, [2])[0]
    for i, value in enumerate(last.rewards["red"]):
        levels = np.asarray(Image.open(last.image_file(run, *divmod(i, last.seeds))))
        pixels = torch.from_numpy(levels.copy()).permute(2, 0, 1)[None] / 255
        assert float(redness(pixels, [""])) == pytest.approx(value, abs=0.01)


@pytest.mark.slow
def test_the_sheet_shows_the_base_beside_the_current_images(watched):
    _, _, run = watched
    first, last = (Image.open(run / "samples" / f"step-{step:06d}.png") for step in (0, 2))
    assert last.width == pytest.approx(2 * first.width, abs=20)
    assert last.getcolors(2**24) != first.getcolors(2**24)


def test_the_page_needs_no_network_and_escapes_prompts(watched):
    _, _, run = watched
    page = (run / "report.html").read_text()
    assert "blue &lt;b&gt;sea" in page
    assert "<b>sea" not in page
    assert page.count("data:image/jpeg;base64,") == 2 * 3 * 2  # base and now of 3 prompts x 2 seeds
    assert "http" not in page
    assert 'class="state finished"' in page
    assert "const running = false" in page


def test_the_page_of_a_run_that_trains_reloads_and_does_without_lost_images(watched, tmp_path):
    trainer, rows, _ = watched
    page = RunPage(tmp_path, trainer.config)
    state = ReflState(processes=1, fingerprint="")
    state.step = 1
    (tmp_path / "samples" / "step-000000").mkdir(parents=True)
    (tmp_path / "samples" / "step-000000" / "scores.json").write_text('{"prompts": ["a"], "seeds": 2')
    page.write(rows, state)
    text = (tmp_path / "report.html").read_text()
    assert "const running = true" in text
    assert "data:image" not in text
    assert text.count("<svg") == len(panels_of(rows))
    assert not page.is_due()


def test_curves_are_valid_for_any_name_and_missing_values():
    line = Line(HOSTILE, [(0, 1.0, math.nan), (1, 2.0, 0.5), (2, 2.0, 0.5)])
    ElementTree.fromstring(panel_svg(Panel(HOSTILE, [line, Line("b", [(1, -3.0, math.nan)], marked=True)])))
    rows = [
        {"step": 1, "reward/x": math.nan, "loss": None},
        {"step": 2, "reward/x": 0.5, "reward/x/std": 0.1},
    ]
    (panel,) = panels_of(rows)
    assert (panel.title, panel.lines[0].points) == ("x", [(2, 0.5, 0.1)])


@pytest.mark.parametrize(
    ("low", "high"), [(0.0772272, 0.0772447), (-1.5e-8, 7e-9), (1.0, 1.0000004), (-2e6, 3)]
)
def test_labels_of_a_curve_have_room_and_all_their_digits(low, high):
    svg = ElementTree.fromstring(
        panel_svg(Panel("a", [Line("b", [(1, low, math.nan), (2, high, math.nan)])]))
    )
    labels = [text for text in svg.iter("text") if text.get("text-anchor") == "end"]
    assert len(labels) >= 4
    assert all(float(text.get("x")) >= 7 * len(text.text) for text in labels)
    values = np.array([float(text.text) for text in labels])
    heights = np.array([float(text.get("y")) for text in labels])
    steps = np.diff(values)
    assert (steps > 0).all()
    assert steps == pytest.approx(steps.mean(), rel=1e-6)  # no digit is missing
    assert (np.diff(heights) < 0).all()


def test_long_runs_are_drawn_with_few_points():
    rows = [{"step": i, "loss": float(i)} for i in range(1001)]
    (panel,) = panels_of(rows)
    points = panel.lines[0].points
    assert len(points) <= 200
    assert points[0][1] == pytest.approx(2.5)


def test_validating_on_training_prompts_is_reported(caplog):
    prompts = [str(i) for i in range(7)]
    assert split_prompts(prompts, None, 2) == (prompts, ["5", "6"])
    assert "trained on too: there are only 7" in caplog.text
    caplog.clear()
    assert split_prompts(prompts, ["x"], 2) == (prompts, ["x"])
    assert split_prompts([*prompts, "7"], None, 2) == (prompts[:6], ["6", "7"])
    assert not caplog.text


def test_a_missing_file_of_validation_prompts_stops_the_command_before_loading(tmp_path, capsys):
    from refl.cli import main

    prompts = tmp_path / "p.txt"
    prompts.write_text("a\nb")
    out = f"--out={tmp_path / 'run'}"
    missing = f"--set=validation.prompts_file={tmp_path / 'none.txt'}"
    assert main(["train", "--model", str(tmp_path), "--prompts", str(prompts), out, missing]) == 2
    assert "none.txt" in capsys.readouterr().err


def test_scores_file_is_plain_json(watched):
    content = json.loads((watched[2] / "samples" / "step-000002" / "scores.json").read_text())
    assert content["prompts"][0] == "red fox"
    assert len(content["rewards"]["red"]) == 6
