"""``reward-core app`` without a browser: usage errors, the offered models, and the folder of the Space."""

import csv
import io
import os
import shutil
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import reward_core as RM

if find_spec("gradio") is None:  # importing it takes seconds, in each worker
    pytest.skip("the page needs gradio (extra: app)", allow_module_level=True)


@pytest.mark.slow
def test_the_space_folder_runs(tmp_path):
    space = tmp_path / "space"
    tool = Path(__file__).parents[3] / "tools" / "make_space.py"
    subprocess.run([sys.executable, tool, "--out", space], check=True, capture_output=True)
    needs = (space / "requirements.txt").read_text().splitlines()
    assert any(line.startswith("gradio>=") for line in needs)
    assert not any(line.startswith("reward") for line in needs)  # its source is in the folder of app.py
    front = (space / "README.md").read_text().split("---\n")[1]
    assert "sdk: gradio\n" in front
    assert "app_file: app.py\n" in front
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"REWARD_MODEL": "nosuch", "OMP_NUM_THREADS": "1"}
    # An unknown model ends it with an error, and the traceback before shows whose code runs.
    done = subprocess.run(
        [sys.executable, "-v", "app.py"], cwd=space, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "'nosuch' is neither a known name" in done.stderr
    assert str(space / "reward_core" / "app" / "models.py") in done.stderr


def test_usage_errors_are_one_line(command, tmp_path):
    taken = socket.create_server(("127.0.0.1", 0))
    for arguments, reason in (
        (["--model", "nosuch"], "'nosuch' is neither a known name"),
        (["--model", "tiny", "--model", tmp_path / "none.pt"], "none.pt"),
        (["--model", "tiny", "--port", taken.getsockname()[1]], ": no free port. Choose another --port."),
        (["--model", "tiny", "--port", 70000], "from 1 to 65535"),
    ):
        done = command("app", *arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert reason in done.stderr.splitlines()[-1]
    taken.close()


def test_without_gradio_the_extra_is_named(command, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)  # so that importing it raises ImportError
    done = command("app", "--model", "tiny")
    assert (done.returncode, done.stdout) == (2, "")
    assert '`pip install "./packages/reward-core[app]"`' in done.stderr


def test_only_the_named_models_are_offered(model, folder, tmp_path):
    from reward_core.app import Models
    from reward_core.cli.app import is_loopback

    assert [is_loopback(h) for h in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "192.0.2.1", "box")] == [
        True, True, True, False, False, False,
    ]  # fmt: skip
    elsewhere = Path(shutil.copytree(folder, tmp_path / folder.name))
    assert Models(["tiny"], only=True).names == ["tiny"]
    pairwise = {"UnifiedReward-2.0-pairwise"}  # its scores depend on the other images of a prompt
    assert set(RM.available_models()) - pairwise == set(Models(["tiny"]).names)
    saved = Models([str(folder), "tiny", str(elsewhere)], only=True)
    assert saved.names == [folder.name, "tiny", f"{folder.name} (2)"]  # without their paths
    assert saved[saved.name_of(str(elsewhere))].config == model.config
    with pytest.raises(RM.RewardCoreError, match="Cannot use the model 'tiny-judge': not offered"):
        _ = Models(["tiny"], only=True)["tiny-judge"]


@pytest.mark.filterwarnings("ignore::reward_core.errors.ClippedLevelsWarning")
def test_every_image_mode_gets_a_thumbnail(model, parity):
    from reward_core.app.image_ranking import rank_images

    images = sorted(map(str, (parity / "images").iterdir()))
    result = rank_images({"parity": model}, ["a red house"], images)
    assert result.failed == []
    assert result.rankings[0].scores[0] == pytest.approx(model.score("a red house", images), abs=5e-5)
    assert result.rankings[0].percentile(0.0) is None


def test_extreme_images_do_not_stop_the_ranking(tmp_path):
    from reward_core.app.image_ranking import rank_images, result_csv

    tiny = RM.load("tiny", device="cpu")
    for name, size in (("dot", (1, 1)), ("wide", (30_000, 2)), ("tall", (3, 20_000)), ("plain", (64, 64))):
        Image.fromarray(np.full((*size[::-1], 3), 200, np.uint8)).save(tmp_path / f"{name}.png")
    bomb = tmp_path / "bomb.png"
    Image.new("1", (14_000, 14_000)).save(bomb)  # a small file that would take 0.6 GB
    files = sorted(map(str, tmp_path.iterdir()))
    result = rank_images({"tiny": tiny}, ["a red star"], [*files, str(tmp_path / "none.png")])
    assert [image.name for image in result.images] == ["dot.png", "plain.png", "tall.png", "wide.png"]
    assert [name for name, _ in result.failed] == ["bomb.png", "none.png"]
    assert "too large to decode safely" in result.failed[0][1]
    assert "none.png,,,,,no such file" in result_csv(result)
    assert all(len(image.thumbnail) < 200_000 for image in result.images)


@pytest.mark.filterwarnings("ignore::reward_core.errors.ClippedLevelsWarning")
def test_a_16_bit_image_is_reported_in_the_notes(model, tmp_path):
    from reward_core.app.image_ranking import rank_images

    Image.fromarray(np.full((48, 48), 9000, dtype=np.uint16)).save(tmp_path / "deep.png")
    result = rank_images({"parity": model}, ["a red house"], [str(tmp_path / "deep.png")])
    assert any(note.startswith("deep.png: mode 'I;16' with levels 9000 to 9000") for note in result.notes)


def test_the_csv_has_no_formulas_and_numbers_stay_numbers():
    from reward_core.app.image_ranking import ModelRanking, RankingResult, ShownImage, result_csv

    names = [
        "=1+1.png",
        "+1.png",
        "-2.png",
        "@SUM.png",
        "\t=x.png",
        " =x",
        "＝x",
        "x;=cmd|'/c calc'!A1",
        "a\udcff",
    ]
    images = [ShownImage(name, 1, 1, "") for name in names]
    scores = [[-0.5 - n for n in range(len(names))]]
    ranking = ModelRanking("@model", scores)
    result = RankingResult(["=HYPERLINK(1)"], images, [ranking], [("-broken", "+reason")])
    text = result_csv(result)
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert [row["picture"] for row in rows] == [
        "'=1+1.png", "'+1.png", "'-2.png", "'@SUM.png", "'\t'=x.png", "' =x", "'＝x", "x;'=cmd|'/c calc'!A1",
        "a\udcff", "'-broken",
    ]  # fmt: skip
    assert {row["prompt"] for row in rows} == {"'=HYPERLINK(1)", ""}
    assert rows[-1]["error"] == "'+reason"
    assert [row["score"] for row in rows[:-1]] == [f"{score:.6f}" for score in scores[0]]
    assert all(row["model"] == "'@model" for row in rows[:-1])


def test_the_page_shows_hidden_characters_as_escapes():
    from reward_core.app.image_ranking import ModelRanking, RankingResult, ShownImage
    from reward_core.app.results import meaning_html, notice, results_html

    name = "a\n\x1b[31m\u202e\u200b\x85\udcff<b>"
    rankings = [ModelRanking(name, [[0.1, 0.2]] * 2)] * 2
    result = RankingResult(
        [name, "b" + name], [ShownImage(name, 1, 1, "")] * 2, rankings, [(name, name)], [name]
    )
    for page in (results_html(result), meaning_html(rankings), notice(name)):
        assert not set("\x1b\u202e\u200b\x85\udcff") & set(page)
        assert "<b>x" not in page
        assert r"a\n\x1b[31m\u202e\u200b\x85\udcff&lt;b&gt;" in page
