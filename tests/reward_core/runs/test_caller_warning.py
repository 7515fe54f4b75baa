"""Every warning of the public API points to the caller's line and appears once."""

import json
import threading
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

import reward_core as RM
from reward_core.errors import DataWarning, PromptTruncatedWarning, PromptWithoutImageWarning
from reward_core.inputs.prompt_file import read_pairs
from reward_core.rankings import read_splits
from reward_core.runs.run_lock import folder_lock

LONG = "red tree, " * 20


@pytest.fixture(scope="module")
def tiny():
    return RM.load("tiny", device="cpu")


def warned(call, times=1):
    """Call a function repeatedly from one line and return the warnings of this project."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(times):
            call()
    return [warning for warning in caught if warning.category.__module__ == "reward_core.errors"]


def check_once(call, category):
    (warning,) = warned(call, times=3)
    assert warning.category is category
    assert warning.filename == __file__


def test_warnings_of_torchmetrics_metrics_point_to_the_caller(tiny):
    torchmetrics = pytest.importorskip("torchmetrics")
    from reward_core.integrations.torchmetrics import RewardScore

    pixels, metric = torch.zeros(1, 3, 9, 9), RewardScore(tiny)
    collection = torchmetrics.MetricCollection([RewardScore(tiny)])
    check_once(lambda: metric.update(pixels, [LONG]), PromptTruncatedWarning)
    check_once(lambda: metric(pixels, [LONG]), PromptTruncatedWarning)
    check_once(lambda: collection.update(pixels, [LONG]), PromptTruncatedWarning)


def test_warnings_of_best_of_and_early_dropping_point_to_the_caller(tiny, pipelines):
    diffusers = pytest.importorskip("diffusers")
    from reward_core.integrations.diffusers import DropPlan, best_of

    pipe = diffusers.DiffusionPipeline.from_pretrained(pipelines("sd"))
    pipe.set_progress_bar_config(disable=True)
    options = {"height": 32, "width": 32, "num_inference_steps": 4, "early": DropPlan(at=(0.5,), keep=(0.5,))}
    found = warned(lambda: best_of(pipe, LONG, 2, tiny, **options))
    assert {warning.category for warning in found} == {PromptTruncatedWarning}
    assert {warning.filename for warning in found} == {__file__}


def test_warnings_of_all_scoring_methods_point_to_the_caller(tiny):
    image = Image.new("RGB", (9, 9))
    check_once(lambda: tiny.score_matrix([LONG], [image]), PromptTruncatedWarning)
    check_once(lambda: tiny.score_pairs([LONG], [image]), PromptTruncatedWarning)
    check_once(lambda: tiny.rewards_from_pixels(torch.zeros(1, 3, 9, 9), [LONG]), PromptTruncatedWarning)


def test_a_warning_appears_once_even_if_models_are_loaded_in_between(tiny, parity):
    def load_and_score():
        RM.load(parity / "state_dict.pt", device="cpu")  # the format of torch
        tiny.score(LONG, Image.new("RGB", (9, 9)))

    assert len(warned(load_and_score, times=3)) == 1


def test_a_warning_appears_once_even_if_commands_run_in_between(tiny, command, tmp_path):
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")

    def run_and_score():
        assert command("rank", "a cat", tmp_path / "a.png", "--model", "tiny").returncode == 0
        tiny.score(LONG, Image.new("RGB", (9, 9)))

    assert len(warned(run_and_score, times=3)) == 1


def test_a_command_prints_warnings_as_lines_and_restores_showwarning(command, tmp_path):
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    before = warnings.showwarning
    done = command("rank", LONG, tmp_path / "a.png", "--model", "tiny")
    assert done.stderr.startswith("reward-core: warning: prompt cut at")
    assert warnings.showwarning is before


def test_threads_do_not_change_warning_filters(tiny, parity):
    before = list(warnings.filters)
    threads = [threading.Thread(target=RM.load, args=(parity / "state_dict.pt", "cpu")) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert warnings.filters == before


def test_warnings_of_reading_rankings_point_to_the_caller(tmp_path):
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    Image.new("RGB", (9, 9)).save(tmp_path / "b.png")
    record = {"id": "1", "prompt": "cat", "generations": ["a.png", "b.png"], "ranking": [1, 2]}
    (tmp_path / "train.json").write_text(json.dumps([record]))
    check_once(lambda: read_splits(tmp_path), DataWarning)


def test_a_warning_about_prompts_without_images_is_short_and_points_to_the_caller(tmp_path):
    Image.new("RGB", (9, 9)).save(tmp_path / "a_0.png")
    records = [{"id": "a", "prompt": "cat"}, {"id": "b" * 50_000, "prompt": "dog"}]
    (tmp_path / "prompts.json").write_text(json.dumps(records))
    check_once(lambda: read_pairs(tmp_path / "prompts.json", tmp_path), PromptWithoutImageWarning)
    with pytest.warns(PromptWithoutImageWarning) as caught:
        read_pairs(tmp_path / "prompts.json", tmp_path)
    assert len(str(caught[0].message)) < 1000


def test_a_warning_about_a_disk_without_locks_points_to_the_caller(tmp_path, monkeypatch):
    def no_locks(*_, **__):
        raise NotImplementedError

    monkeypatch.setattr("filelock.FileLock.acquire", no_locks)

    def lock():
        with folder_lock(tmp_path / "run", "lock"):
            pass

    check_once(lock, DataWarning)


def test_a_warning_about_saving_rounded_weights_points_to_the_caller(parity, tmp_path):
    fast = RM.load(parity / "state_dict.pt", device="cpu", precision="fast")
    fast.set_encoder_dtype(torch.bfloat16)
    check_once(lambda: fast.save_pretrained(tmp_path), RM.errors.RoundedWeightsWarning)


def test_warnings_of_bulk_scoring_point_to_the_caller(tmp_path):
    import tarfile

    from reward_core.bulk import BulkSettings, Tars, score_to_file

    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("cat")
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name in ("a.png", "a.x.png", "a.txt"):
            tar.add(tmp_path / name.replace(".x", ""), name)
    settings, scores = BulkSettings(model="tiny", devices=("cpu",), shard_rows=1), tmp_path / "scores.csv"
    check_once(lambda: score_to_file(Tars((str(tmp_path / "a.tar"),)), scores, settings), DataWarning)
