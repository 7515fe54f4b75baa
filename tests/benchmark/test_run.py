"""The shapes suite end to end: tables, interrupted runs, missing and broken images."""

import json
import random
import shutil
import signal
import time

import pytest

from reward_core.shapes import HELD_OUT, make_groups, write_groups

LIMIT = 6  # prompts of a run


@pytest.fixture(scope="module")
def shapes(run, tmp_path_factory):
    """A run with held-out groups of which tiny gets 6 pairs of 138 wrong, and the oracle none."""
    out = tmp_path_factory.mktemp("runs")
    write_groups(make_groups(LIMIT, HELD_OUT, "held_out", start=21), out / "shapes" / "data" / "held_out")
    done = run("run", "shapes", "--limit", LIMIT, "--out", out)
    return done, out / "shapes"


def test_a_narrow_terminal_shows_a_list_instead_of_wrapped_cells(finished, capsys, monkeypatch):
    from reward_benchmark.tables import print_tables

    parts = finished[0].parts
    monkeypatch.setenv("COLUMNS", "80")
    print_tables(parts)
    lines = capsys.readouterr().out.splitlines()
    assert not any("│" in line or "┃" in line for line in lines[:4])
    assert any(line.startswith("  pooled %: ") for line in lines)
    monkeypatch.setenv("COLUMNS", "400")
    print_tables(parts)
    assert "┃" in capsys.readouterr().out


@pytest.mark.slow
def test_the_tiny_reward_ranks_renderers_like_the_oracle(shapes):
    done, folder = shapes
    assert done.returncode == 0, done.stderr
    renderers, held_out = json.loads((folder / "summary.json").read_text())["parts"]
    assert len(renderers["reference"]) >= 8
    assert (renderers["prompts"], renderers["pictures"]) == (LIMIT, LIMIT * 10 * len(renderers["reference"]))
    assert renderers["scorers"]["oracle"]["spearman"]["value"] == pytest.approx(1)
    assert renderers["scorers"]["tiny"]["spearman"]["value"] >= 0.9
    assert held_out["prompts"] == LIMIT
    accuracy = {name: table["pooled_accuracy"] for name, table in held_out["scorers"].items()}
    assert 1 == accuracy["oracle"] > accuracy["tiny"] > accuracy["colour-histogram"]
    interval = held_out["scorers"]["random"]["intervals"]["pooled_accuracy"]
    assert interval["low"] < 0.5 < interval["high"]
    assert "Spearman" in done.stdout
    assert "Recall@1" in (folder / "report.md").read_text()


@pytest.mark.slow
def test_a_second_run_scores_nothing_again(shapes, run):
    _, folder = shapes
    before = (folder / "scores.jsonl").read_bytes()
    done = run("run", "shapes", "--limit", LIMIT, "--out", folder.parent, "--json")
    assert done.returncode == 0, done.stderr
    assert (folder / "scores.jsonl").read_bytes() == before
    assert json.loads(done.stdout) == json.loads((folder / "summary.json").read_text())


@pytest.mark.slow
def test_a_run_killed_at_random_times_loses_and_repeats_nothing(shapes, settings, warm_python, tmp_path):
    """The images exist, so that the run is killed while scoring."""
    _, folder = shapes
    arguments = [
        "run",
        "shapes",
        "--limit",
        str(LIMIT),
        "--scorers",
        "oracle,random",
        "--generators",
        "soft,mosaic,hazy,stripes,careless",
    ]
    arguments += ["--data", str(folder / "data"), "--out", str(tmp_path)]
    command = ["-m", "reward_benchmark", *arguments]
    path, chance, sizes = tmp_path / "shapes" / "scores.jsonl", random.Random(0), [0]
    for _ in range(4):
        process = warm_python.start(command, env=settings)
        started = time.monotonic()
        while time.monotonic() - started < 60 and process.poll() is None:
            if path.is_file() and path.stat().st_size > sizes[-1]:
                break
            time.sleep(0.01)
        time.sleep(chance.random() * 0.4)
        process.send_signal(signal.SIGKILL)
        process.wait()
        sizes.append(path.stat().st_size)
    assert sizes == sorted(sizes)
    assert sizes[1] > 0
    with path.open("ab") as file:
        file.write(b'{"part": "renderers", "scor')  # an unfinished line
    done = warm_python.run(command, env=settings, timeout=120)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    keys = [(row["part"], row["scorer"], row["picture"]) for row in rows]
    assert len(keys) == len(set(keys))
    expected = {
        (row["part"], row["scorer"], row["picture"]): row["score"]
        for row in map(json.loads, (folder / "scores.jsonl").read_text().splitlines())
    }
    # Batches after an interruption may have other sizes, which changes the rounding.
    assert all(row["score"] == pytest.approx(expected[key], abs=5e-5) for key, row in zip(keys, rows))
    summary = json.loads((tmp_path / "shapes/summary.json").read_text())
    assert len(keys) == 2 * sum(part["pictures"] for part in summary["parts"])


@pytest.mark.slow
def test_missing_and_broken_images_are_reported(shapes, command, tmp_path):
    import shutil

    data = tmp_path / "data"
    shutil.copytree(shapes[1] / "data" / "held_out", data / "held_out")
    (data / "held_out/images/000000/0.png").unlink()
    (data / "held_out/images/000001/1.png").write_bytes(b"no image")
    done = command(
        "run", "shapes", "--limit", 2, "--generators", "soft,faithful", "--scorers", "oracle,tiny",
        "--data", data, "--out", tmp_path / "out", "--device", "cpu,cpu",
    )  # fmt: skip
    assert done.returncode == 1
    assert "held_out/images/000000/0.png: no such file" in done.stderr
    assert "not an image" in done.stderr
    assert "2 of them could not be scored" in done.stdout
    table = json.loads((tmp_path / "out/shapes/summary.json").read_text())["parts"][1]["scorers"]["tiny"]
    assert table["missing"] == 2


@pytest.mark.slow
def test_changed_images_are_scored_again(shapes, command, tmp_path):
    """Only a replaced image, a repaired image, and the images of a retrained scorer."""
    import shutil

    import torch

    import reward_core as RM

    data, model = tmp_path / "data", RM.load("tiny", device="cpu")
    shutil.copytree(shapes[1] / "data" / "held_out", data / "held_out")
    first, second = (data / f"held_out/images/00000{i}/0.png" for i in (0, 1))
    expected = first.read_bytes()
    first.write_bytes(b"no image")
    model.save_pretrained(tmp_path / "mine")
    arguments = (
        "run", "shapes", "--limit", 2, "--generators", "soft,faithful",
        "--scorers", f"oracle,{tmp_path / 'mine'}", "--data", data, "--out", tmp_path / "out", "--json",
    )  # fmt: skip
    assert command(*arguments).returncode == 1
    scores = tmp_path / "out/shapes/scores.jsonl"
    rows = len(scores.read_text().splitlines())
    first.write_bytes(expected)
    shutil.copy(data / "held_out/images/000001/1.png", second)
    assert command(*arguments).returncode == 0
    new = [json.loads(line) for line in scores.read_text().splitlines()[rows:]]
    assert sorted({row["picture"] for row in new}) == [f"held_out/images/00000{i}/0.png" for i in (0, 1)]
    assert len(new) == 4
    with torch.no_grad():
        model.mlp.layers[-1].bias += 1
    model.save_pretrained(tmp_path / "mine")
    before = json.loads(scores.read_text().splitlines()[-1])
    assert command(*arguments).returncode == 0
    newest = [json.loads(line) for line in scores.read_text().splitlines()[rows + 4 :]]
    assert {row["scorer"] for row in newest} == {str(tmp_path / "mine")}
    assert 2 * len(newest) == rows
    again = next(row for row in newest if row["picture"] == before["picture"])
    assert again["score"] != before["score"]


@pytest.mark.slow
def test_invalid_runs_are_refused(shapes, command, tmp_path):
    _, folder = shapes
    done = command("run", "shapes", "--limit", LIMIT, "--out", folder.parent, "--precision", "fast")
    assert done.returncode == 2
    assert "give another --out" in done.stderr
    done = command("run", "shapes", "--limit", 1, "--generators", "sharp", "--out", tmp_path)
    assert done.returncode == 2
    assert "Cannot use the renderers sharp: unknown" in done.stderr
    done = command("run", "shapes", "--limit", 1, "--scorers", "oracel", "--out", tmp_path)
    assert done.returncode == 2
    assert "'oracel' is neither" in done.stderr


@pytest.fixture(scope="module")
def clip_and_aesthetic(tmp_path_factory):
    from tiny_clips import save_tiny_clips

    from reward_core import load

    folders = save_tiny_clips(tmp_path_factory.mktemp("clips"))
    return load([folders["CLIP"], folders["Aesthetic"]], device="cpu").scorers


def test_clip_and_aesthetic_share_an_image_encoder(clip_and_aesthetic, tmp_path):
    """One pass over the images gives the same scores as two; an unreadable image gets a row."""
    from PIL import Image

    from reward_benchmark.scorers import Bundle, bundles

    assert bundles(["CLIP", "BLIP", "Aesthetic"]) == [("CLIP", "Aesthetic"), ("BLIP",)]
    assert bundles(["Aesthetic", "BLIP"]) == [("Aesthetic",), ("BLIP",)]
    both = clip_and_aesthetic
    images = [
        Image.effect_noise((30, 40), 90).convert("RGB"),
        tmp_path / "none.png",
        Image.new("RGB", (9, 9)),
    ]
    rows = list(Bundle(both).score_rows(["a", "b", "b"], images, None))
    for name, scorer in both.items():
        single_rows = list(scorer.score_rows(["a", "b", "b"], images))
        assert (
            [row[name].error for row in rows]
            == [row.error for row in single_rows]
            == [None, "no such file", None]
        )
        for row, other in zip(rows, single_rows):
            assert row[name].score == pytest.approx(other.score, abs=1e-6)


@pytest.mark.slow
def test_a_bundle_keeps_few_images_open(clip_and_aesthetic, tmp_path):
    import gc

    from PIL import Image

    from reward_benchmark.scorers import Bundle
    from reward_core.inputs.image_file import StoredImage

    Image.effect_noise((30, 40), 90).save(tmp_path / "a.png")
    content, alive = (tmp_path / "a.png").read_bytes(), []

    class Counting(StoredImage):
        name = "a.png"

        def read(self):
            alive.append(sum(issubclass(type(thing), Image.Image) for thing in gc.get_objects()))
            return content

    before = sum(issubclass(type(thing), Image.Image) for thing in gc.get_objects())
    images = [Counting() for _ in range(12)]
    rows = list(Bundle(clip_and_aesthetic).score_rows(["a"] * 12, images, 2))
    assert len(rows) == len(alive) == 12
    assert max(alive) - before <= 4


def test_a_bundle_scores_a_group_without_a_readable_image(clip_and_aesthetic, tmp_path):
    from reward_benchmark.scorers import Bundle

    (row,) = Bundle(clip_and_aesthetic).score_rows(["a"], [tmp_path / "none.png"], None)
    assert [(part.score, part.error) for part in row.values()] == [(None, "no such file")] * 2


@pytest.mark.slow
def test_the_html_report_is_self_contained(shapes, command):
    _, folder = shapes
    done = command("report", folder.parent, "--html")
    assert done.returncode == 0, done.stderr
    assert str(folder / "report.html") in done.stdout
    page = (folder / "report.html").read_text()
    assert page.count("<svg") == 4  # distributions and agreement, twice
    assert page.count("data:image/webp;base64,") > 10 * 8  # a strip per renderer, and disagreements
    addresses = [part.split('"')[0] for part in page.split('src="')[1:]]
    assert all(address.startswith("data:") for address in addresses)
    assert "<link" not in page
    assert "<script" not in page
    for output in (
        "Spearman",
        "Recall@1",
        "Groups where scorer and people disagree most",
        "torch",
        "faithful",
    ):
        assert output in page
    assert "prompts with 8 or more images" in page
    assert "371" not in page.partition("prompts with 8 or more images")[2][:100]  # the paper's Table 3 only


def test_the_original_s_result_files_are_reported(tmp_path, command):
    rankings = [{"id": "x", "prompt": "p", "generations": ["1.png", "2.png"], "ranking": [1, 2]}]
    (tmp_path / "rankings.json").write_text(json.dumps(rankings))
    folder = tmp_path / "results"
    (folder / "CLIP").mkdir(parents=True)
    (folder / "test_CLIP.json").write_text(json.dumps([{"id": "x", "rewards": [0.2, 0.1]}]))
    for name, reward in (("openjourney", 0.2724), ("sd2-1", 0.3), ("vd", 0.1)):
        row = {"id": "x", "prompt": "p", "mean_score": reward, "rewards": [reward]}
        (folder / "CLIP" / f"CLIP-benchmark-{name}-result.json").write_text(json.dumps([row]))
    done = command("report", folder, "--rankings", tmp_path / "rankings.json")
    assert done.returncode == 0, done.stderr
    assert "paper 0.2726, -0.0002 reproduced" in done.stdout
    assert "paper 0.2683, +0.0317 " in done.stdout
    assert "paper 54.82, +45.18" in done.stdout
    assert "rankings" in command("report", folder).stderr


HOSTILE = "x\n\x1b[31m\u202e[/red]|<script>`$\\frac{"


@pytest.mark.slow
def test_names_in_reports_are_escaped(shapes, command, tmp_path):
    """Scorers, generators and prompts with control characters and markup, in all reports."""
    folder = tmp_path / "shapes"
    shutil.copytree(shapes[1], folder, ignore=shutil.ignore_patterns("data"))
    for name in ("summary.json", "groups.json", "scores.jsonl"):
        text = (folder / name).read_text()
        for word in ("tiny", "mosaic", "circle"):
            text = text.replace(word, word + json.dumps(HOSTILE)[1:-1])
        (folder / name).write_text(text)
    done = command("report", folder, "--html")
    assert done.returncode == 0, done.stderr
    page, card = (folder / "report.html").read_text(), (folder / "report.md").read_text()
    for text in (done.stdout, page, card):
        assert "\x1b" not in text
        assert "\u202e" not in text
        assert r"x\n\x1b[31m" in text.replace(r"\\", "\\")
    assert "<script" not in page
    assert "<script" not in card
    assert "tiny" + r"x\\n\\x1b[31m\\u202e[/red]\|&lt;script&gt;\`$\\frac{" in card
