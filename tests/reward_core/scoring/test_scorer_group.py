"""Several scorers at once: the scores of each, and one decoding of each image for all."""

import csv
import json
import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_clips import save_tiny_clips

import reward_core as RM
from reward_core.bulk import BulkSettings, Manifest, score_to_file
from reward_core.errors import ImageError, InputError, RunInterrupted
from reward_core.files.score_file import ScoredRow
from reward_core.inputs.image_file import StoredImage, image_name, open_image
from reward_core.inputs.image_transform import ImageTransform

PROMPTS = ["a", "b b", "a b a", "b", "a a"]
BOTH = ("tiny", "tiny-judge")


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return save_tiny_clips(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="module")
def group(clips):
    """Five scorers with four encoders, for which images are prepared in three ways."""
    return RM.load([*BOTH, *clips.values()], device="cpu")


@pytest.fixture
def pictures(tmp_path):
    """Five images of different sizes."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i, (width, height) in enumerate(((30, 40), (64, 64), (50, 20), (28, 28), (90, 61))):
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return sorted(folder.iterdir())


@pytest.fixture
def opened(monkeypatch):
    """The paths of the images that are opened, as often as they are opened."""
    paths, real = [], os.open

    def counting(file, *args, **kwargs):
        if str(file).endswith(".png"):
            paths.append(str(file))
        return real(file, *args, **kwargs)

    monkeypatch.setattr(os, "open", counting)
    return paths


class Stored(StoredImage):
    """An image in memory that counts how often it is read."""

    name = "stored.png"

    def __init__(self, path):
        self.content, self.reads = path.read_bytes(), 0

    def read(self):
        self.reads += 1
        return self.content


def close(scores, expected):
    torch.testing.assert_close(scores, expected, atol=2e-5, rtol=0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::reward_core.errors.PromptTruncatedWarning")
def test_each_scorer_gives_the_scores_that_it_gives_alone(group, pictures):
    assert group.names == [*BOTH, "CLIP", "Aesthetic", "HPS"]
    pairs, matrix = group.score_pairs(PROMPTS, pictures, batch_size=2), group.score_matrix(PROMPTS, pictures)
    single, several = group.score("a b", pictures[0]), group.score("a b", pictures)
    ranks = group.inference_rank("a b", pictures)
    rows = list(group.score_rows(PROMPTS, pictures, batch_size=3))
    for name in group.names:
        close(pairs[name], group[name].score_pairs(PROMPTS, pictures))
        close(matrix[name], group[name].score_matrix(PROMPTS, pictures))
        assert single[name] == pytest.approx(group[name].score("a b", pictures[0]), abs=2e-5)
        assert several[name] == pytest.approx(group[name].score("a b", pictures), abs=2e-5)
        assert ranks[name][0] == group[name].inference_rank("a b", pictures)[0]
        close(torch.tensor([row.scores[name] for row in rows]), pairs[name])
        assert [row.of(name).score for row in rows] == [row.scores[name] for row in rows]


@pytest.mark.parametrize("method", ["score_pairs", "score_matrix", "score_rows"])
def test_each_image_is_decoded_once_for_all_scorers(group, pictures, opened, method):
    stored = [Stored(picture) for picture in pictures]
    opened.clear()
    for images in (pictures, stored):
        list(getattr(group, method)(PROMPTS, images, batch_size=2))
    assert sorted(opened) == list(map(str, pictures))
    assert [image.reads for image in stored] == [1] * 5


def test_scorers_with_the_same_encoder_encode_once_and_share_its_memory(group, pictures):
    assert [lane.names for lane in group.lanes()] == [
        ("tiny",),
        ("tiny-judge",),
        ("CLIP", "Aesthetic"),
        ("HPS",),
    ]
    for mine, theirs in zip(group["CLIP"].clip.parameters(), group["Aesthetic"].clip.parameters()):
        assert mine.data_ptr() == theirs.data_ptr()
    passes = []
    handles = [
        group[name].clip.vision_model.register_forward_hook(lambda *_, name=name: passes.append(name))
        for name in ("CLIP", "Aesthetic", "HPS")
    ]
    group.score_pairs(PROMPTS, pictures, batch_size=5)
    for handle in handles:
        handle.remove()
    assert passes == ["CLIP", "HPS"]


def test_scorers_whose_encoders_differ_do_not_share_features(clips, pictures, tmp_path):
    other = RM.load(clips["Aesthetic"], device="cpu")
    with torch.no_grad():
        next(other.clip.parameters()).mul_(1.5)
    other.save_pretrained(tmp_path / "other")
    group = RM.load([clips["CLIP"], tmp_path / "other"], device="cpu")
    assert len(group.lanes()) == 2
    close(group.score_pairs(PROMPTS, pictures)["other"], other.score_pairs(PROMPTS, pictures))


def test_scorers_that_compute_features_differently_do_not_share_them(pictures):
    models = {name: RM.load("tiny", device="cpu") for name in ("exact", "same", "half", "other levels")}
    models["half"].set_encoder_dtype(torch.bfloat16)
    size = models["exact"].transform.size
    models["other levels"].transform = ImageTransform(size, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    group = RM.ScorerGroup(models)
    assert [lane.names for lane in group.lanes()] == [("exact", "same"), ("half",), ("other levels",)]
    pairs = group.score_pairs(PROMPTS, pictures)
    for name, model in models.items():
        close(pairs[name], model.score_pairs(PROMPTS, pictures))


@pytest.mark.parametrize("method", ["score_pairs", "score_matrix", "score_rows"])
def test_a_changed_head_of_any_scorer_with_the_same_encoder_is_used(pictures, method):
    models = {name: RM.load("tiny", device="cpu") for name in ("first", "second")}
    for model in models.values():
        model.fast = True  # the head is fused
    group = RM.ScorerGroup(models)
    assert [lane.names for lane in group.lanes()] == [("first", "second")]

    def of_second(scorer):
        result = getattr(scorer, method)(PROMPTS, pictures)
        if method == "score_rows":
            return torch.tensor([row.of("second").score for row in result])
        return result["second"]

    before = of_second(group)
    with torch.no_grad():
        models["second"].mlp.layers[0].weight.mul_(1.5)
    after = of_second(group)
    assert (after - before).abs().max() > 0.1
    close(after, of_second(RM.ScorerGroup({"second": models["second"]})))


def test_an_unreadable_image_is_an_error_of_all_scorers(group, pictures):
    images = [pictures[0], "none.png", pictures[2]]
    rows = list(group.score_rows(PROMPTS[:3], images, batch_size=2))
    assert [row.error for row in rows] == [None, "no such file", None]
    assert [sorted(row.scores) for row in rows] == [sorted(group.names), [], sorted(group.names)]
    assert rows[1].of("CLIP") == rows[1].of("tiny")
    close(torch.tensor(rows[2].scores["HPS"]), group["HPS"].score_pairs(PROMPTS[2:3], images[2:])[0])
    with pytest.raises(ImageError, match=r"none\.png"):
        group.score_pairs(PROMPTS[:3], images)
    assert [row.error for row in group.score_rows(["a"], ["none.png"])] == ["no such file"]


def test_wrong_groups_are_refused(clips, tmp_path):
    for sources, options, reason in (
        ([], {}, "no scorer"),
        (["tiny", "TINY"], {}, "'tiny' twice"),
        (BOTH, {"files": tmp_path}, "Cannot use files with 2 models"),
        (BOTH, {"revision": "main"}, "with a list of scorers"),
    ):
        with pytest.raises(InputError, match=reason):
            RM.load(sources, device="cpu", **options)
    shutil.copytree(clips["CLIP"], tmp_path / "error")
    with pytest.raises(InputError, match="a column with this name"):
        RM.load(["tiny", tmp_path / "error"], device="cpu")
    with pytest.raises(InputError, match="2 prompts but 1 images"):
        RM.load(["tiny"], device="cpu").score_pairs(["a", "b"], [Image.new("RGB", (8, 8))])


def test_scorers_with_the_same_folder_name_get_different_names(clips, tmp_path):
    shutil.copytree(clips["HPS"], tmp_path / "CLIP")
    sources = [clips["CLIP"], tmp_path / "CLIP", "tiny"]
    assert RM.load(sources, device="cpu").names == [*map(str, sources[:2]), "tiny"]


class Brightness:
    """A scorer that is not a scoring model."""

    def score_pairs(self, prompts, images):
        levels = [np.asarray(open_image(image).convert("L")) for image in images]
        return torch.tensor([level.mean() / 255 for level in levels], dtype=torch.float32)

    def score_matrix(self, prompts, images):
        return torch.stack([self.score_pairs(prompts, images)] * len(prompts))

    def score(self, prompt, image):
        return self.score_pairs([prompt], [image]).item()

    def inference_rank(self, prompt, images):
        raise NotImplementedError


class Judge(Brightness):
    """The same with an error for some pairs, as a VLM judge has."""

    def score_rows(self, prompts, images, *, batch_size=None):
        for prompt, image in zip(prompts, images):
            name = image_name(image)
            if prompt == "b" or name == "none.png":
                yield ScoredRow(prompt, name, None, "no answer" if prompt == "b" else "no such file")
            else:
                yield ScoredRow(prompt, name, self.score(prompt, image))


def test_any_scorer_can_be_in_a_group(pictures):
    tiny = RM.load("tiny", device="cpu")
    group = RM.ScorerGroup({"bright": Brightness(), "tiny": tiny, "judge": Judge()})
    bright = Brightness().score_pairs(PROMPTS, pictures)
    pairs, matrix = group.score_pairs(PROMPTS, pictures), group.score_matrix(PROMPTS[:2], pictures)
    assert list(pairs) == ["bright", "tiny", "judge"]
    close(pairs["bright"], bright)
    close(pairs["tiny"], tiny.score_pairs(PROMPTS, pictures))
    close(matrix["judge"], torch.stack([bright, bright]))
    close(torch.tensor(RM.ScorerGroup({"bright": Brightness()}).score("a", pictures)["bright"]), bright)
    rows = list(group.score_rows(PROMPTS, [*pictures[:4], "none.png"]))
    assert [row.error for row in rows] == [None, None, None, "judge: no answer", "no such file"]
    assert [list(row.scores) for row in rows[2:]] == [["tiny", "bright", "judge"], ["tiny", "bright"], []]
    assert rows[3].of("bright").error is None
    alone = list(RM.ScorerGroup({"judge": Judge()}).score_rows(PROMPTS, pictures))
    assert [row.error for row in alone] == [None, None, None, "no answer", None]


# Bulk runs


@pytest.fixture
def manifest(pictures):
    """Twelve rows: repeated images, a missing file and a missing prompt."""
    path = pictures[0].parent / "pairs.csv"
    rows = [(PROMPTS[i % 5], f"{i % 5}.png") for i in range(10)] + [("a", "none.png"), ("", "0.png")]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("prompt", "image"), *rows])
    return path


@pytest.mark.parametrize("extension", ["csv", "jsonl", "parquet"])
def test_a_bulk_run_writes_a_column_for_each_scorer(manifest, clips, group, opened, extension):
    models = ("tiny", *map(str, clips.values()))
    settings = BulkSettings(models, devices=("cpu",), batch_size=2, shard_rows=8)
    out = manifest.parent / f"scores.{extension}"
    opened.clear()
    summary = score_to_file(Manifest(manifest), out, settings)
    assert len(opened) == 5 + 2  # once in each shard; the second has images 3 and 4
    assert (summary.rows, summary.scored, summary.failed) == (12, 10, 2)
    assert summary.errors == {"no such file": 1, "no prompt": 1}
    rows = read(out)
    assert list(rows[0]) == ["row", "prompt", "image", "tiny", "CLIP", "Aesthetic", "HPS", "error"]
    images = [manifest.parent / row["image"] for row in rows[:10]]
    for name in ("tiny", "CLIP", "Aesthetic", "HPS"):
        scores = torch.tensor([float(row[name]) for row in rows[:10]])
        close(scores, group[name].score_pairs([row["prompt"] for row in rows[:10]], images))
        assert [row[name] for row in rows[10:]] in ([None, None], ["", ""])
    assert [row["error"] for row in rows[10:]] == ["no such file", "no prompt"]


def read(path):
    if path.suffix == ".csv":
        with path.open(newline="") as file:
            return list(csv.DictReader(file))
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    return pytest.importorskip("pyarrow.parquet").read_table(path).to_pylist()


@pytest.mark.slow
def test_an_interrupted_bulk_run_with_several_scorers_resumes_to_the_same_bytes(manifest, clips):
    models = (str(clips["CLIP"]), "tiny", str(clips["HPS"]))
    settings = BulkSettings(models, devices=("cpu",), batch_size=2, shard_rows=8, save_seconds=0)
    whole, resumed = manifest.parent / "whole.csv", manifest.parent / "resumed.csv"
    score_to_file(Manifest(manifest), whole, settings)

    def interrupt(rows, done, failed):
        if done == 6:
            raise KeyboardInterrupt

    with pytest.raises(RunInterrupted):
        score_to_file(Manifest(manifest), resumed, settings, on_progress=interrupt)
    fewer = BulkSettings(models[:2], devices=("cpu",), batch_size=2, shard_rows=8)
    with pytest.raises(InputError, match="model was"):
        score_to_file(Manifest(manifest), resumed, fewer)
    assert score_to_file(Manifest(manifest), resumed, settings).resumed_rows == 6
    assert resumed.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("source", [None, 3])
def test_other_things_than_names_are_refused(source):
    with pytest.raises(InputError, match=rf"expected a name, folder or file, .* got {source}\."):
        RM.load(source)


def test_features_are_shown_by_their_shapes():
    tiny = RM.load("tiny", device="cpu")
    images, prompts = tiny.encode_images([Image.new("RGB", (8, 8))]), tiny.encode_prompts(["a dog"])
    assert repr(images) == f"ImageFeatures({tuple(images.data.shape)} float32 on cpu, model=RewardModel)"
    assert repr(prompts).startswith("PromptFeatures(1 prompt, tokens=(1, ")
    assert len(repr(prompts)) < 100
