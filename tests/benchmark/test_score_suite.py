"""Scoring a suite: scores are stored while a scorer goes through all images in one pass."""

import pytest
from PIL import Image

from reward_benchmark.score_store import ScoreStore, read_store
from reward_benchmark.score_suite import score_suite
from reward_benchmark.scorers import Bundle
from reward_benchmark.suites import Group, Part
from reward_core.files.score_file import ScoredRow


class Scorer:
    """Scores image i with i and records its calls."""

    def __init__(self, calls, store, stop_at=None):
        self.calls, self.store, self.stop_at = calls, store, stop_at

    def score_rows(self, prompts, images, *, batch_size=None):
        self.calls.append((len(images), batch_size))
        for i, (prompt, image) in enumerate(zip(prompts, images)):
            self.calls.append(len(read_store(self.store)))
            if i == self.stop_at:
                raise KeyboardInterrupt
            yield ScoredRow(prompt, str(image), float(image.stem))


@pytest.fixture
def parts(tmp_path):
    images = [tmp_path / f"{i}.png" for i in range(100)]
    for image in images:
        Image.new("RGB", (2, 2)).save(image)
    groups = tuple(Group(str(i), "a prompt", (image,), (image.name,)) for i, image in enumerate(images))
    return [Part("test", "Test", "generators", groups)]


def test_a_scorer_gets_all_images_at_once_and_its_scores_are_stored_meanwhile(parts, tmp_path):
    calls, file = [], tmp_path / "scores.jsonl"
    with ScoreStore(file) as store:
        score_suite(
            parts, ["x"], store, lambda names, device: Bundle({"x": Scorer(calls, file)}), batch_size=64
        )
    (first, *stored) = calls
    assert first == (100, 64)
    assert stored == [i // 32 * 32 for i in range(100)]
    assert {image: row.score for (_, _, image), row in read_store(file).items()} == {
        f"{i}.png": float(i) for i in range(100)
    }


def test_an_interrupted_pass_keeps_what_was_stored_and_scores_the_rest_later(parts, tmp_path):
    calls, file = [], tmp_path / "scores.jsonl"
    with ScoreStore(file) as store, pytest.raises(KeyboardInterrupt):
        score_suite(parts, ["x"], store, lambda names, device: Bundle({"x": Scorer(calls, file, 70)}))
    assert len(read_store(file)) == 64
    calls.clear()
    with ScoreStore(file) as store:
        score_suite(parts, ["x"], store, lambda names, device: Bundle({"x": Scorer(calls, file)}))
    assert calls[0] == (36, None)
    assert len(read_store(file)) == 100


def test_several_devices_share_the_images(parts, tmp_path):
    calls, file = [], tmp_path / "scores.jsonl"
    with ScoreStore(file) as store:
        score_suite(
            parts, ["x"], store, lambda names, device: Bundle({"x": Scorer(calls, file)}), devices=["0", "1"]
        )
    assert sorted(call[0] for call in calls if isinstance(call, tuple)) == [4, 32, 32, 32]
    assert len(read_store(file)) == 100
