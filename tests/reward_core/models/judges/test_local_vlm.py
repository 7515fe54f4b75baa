"""Judges whose model is in this process: a tiny Qwen2-VL (tests/tiny_judge_model.py)."""

import os

import pytest
import tiny_judge_model

import reward_core as RM
from reward_core.errors import AnswerError, CheckpointError, InputError
from reward_core.models.judges.loading import make_judge
from reward_core.models.judges.local_vlm import LocalVLM
from reward_core.models.judges.templates import JudgeTemplate

RATE = JudgeTemplate("rate", tiny_judge_model.RATE, labels=("Style Score",), max_tokens=8)
BRIGHT = JudgeTemplate("bright", tiny_judge_model.BRIGHT, "yes_no")
# Questions of several lengths, about images of several sizes: dark, bright, bright, dark.
PROMPTS = list(tiny_judge_model.PROMPTS)
PICTURES = [
    tiny_judge_model.picture(level, size) for level, size in zip((10, 245, 245, 10), tiny_judge_model.SIZES)
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_judge_model.save_tiny_judge_model(tmp_path_factory.mktemp("vlm") / "tiny-vlm")


@pytest.fixture(scope="module")
def vlm(folder):
    return LocalVLM(folder, "cpu")


@pytest.fixture(autouse=True)
def no_answers(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


def test_answers_do_not_depend_on_the_batch(vlm):
    judge = make_judge(RATE, vlm)
    together = judge.score_pairs(PROMPTS, PICTURES, batch_size=4).tolist()
    assert together == [2, 4, 4, 2]
    assert judge.score_pairs(PROMPTS, PICTURES, batch_size=1).tolist() == together
    assert judge.inference_rank("a cat", PICTURES[:3]) == ([3, 1, 2], [2, 4, 4])
    detail = judge.details("a cat", PICTURES[1:2])[0]
    assert (detail.answer, dict(detail.dimensions)) == ("Style Score : 4", {"style": 4})


def test_the_probability_of_yes_does_not_depend_on_the_batch(vlm):
    judge = make_judge(BRIGHT, vlm)
    together = judge.score_pairs(PROMPTS, PICTURES, batch_size=4)
    assert together.round().tolist() == [0, 1, 1, 0]
    assert judge.score_pairs(PROMPTS, PICTURES, batch_size=1).tolist() == pytest.approx(
        together.tolist(), abs=1e-5
    )
    # "Yes" and "yes" are one word.
    reversed_judge = make_judge(
        JudgeTemplate("dark", tiny_judge_model.BRIGHT, "yes_no", labels=("No", "YES")), vlm
    )
    assert reversed_judge.score_pairs(PROMPTS, PICTURES).tolist() == pytest.approx(
        (1 - together).tolist(), abs=1e-5
    )
    unknown = make_judge(JudgeTemplate("red", tiny_judge_model.BRIGHT, "yes_no", labels=("red", "no")), vlm)
    with pytest.raises(InputError, match=r"'red'.* not a single token"):
        unknown.score("a cat", PICTURES[0])


def test_an_answer_without_an_end_is_an_error(vlm):
    short = make_judge(
        JudgeTemplate("short", tiny_judge_model.RATE, labels=("Style Score",), max_tokens=4), vlm
    )
    with pytest.raises(AnswerError, match="cut off"):
        short.score("a cat", PICTURES[0])
    pairwise = make_judge(JudgeTemplate("pair", "rate {prompt}", "pairwise", labels=("Score",)), vlm)
    with pytest.raises(AnswerError, match="no Score"):
        pairwise.compare("a cat", *PICTURES[:2])


def test_an_image_that_the_model_refuses_is_a_row_with_an_error(vlm):
    judge = make_judge(RATE, vlm)
    rows = list(
        judge.score_rows(PROMPTS, [*PICTURES[:3], tiny_judge_model.picture(10, (1, 300))], batch_size=4)
    )
    assert [row.score for row in rows] == [2, 4, 4, None]
    assert "aspect ratio" in rows[3].error
    with pytest.raises(InputError, match="aspect ratio"):
        judge.score("a cat", tiny_judge_model.picture(10, (1, 300)))


def test_any_folder_is_a_judge_with_a_template(folder, tmp_path):
    path = tmp_path / "rate.yaml"
    path.write_text(f"text: {tiny_judge_model.RATE}\nlabels: [Style Score]\nmax_tokens: 8\n")
    judge = RM.load(folder, template=path, device="cpu")
    assert "model" not in vars(judge.vlm)  # loaded when it is asked
    assert judge.score("a cat", PICTURES) == [2, 4, 4, 2]
    again = RM.load(folder, template=path, device="cpu")
    assert again.score("a cat", PICTURES) == [2, 4, 4, 2]
    assert "model" not in vars(again.vlm)  # all answers are stored
    weights = folder / "model.safetensors"
    stat = weights.stat()
    os.utime(weights, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    changed = RM.load(folder, template=path, device="cpu")
    changed.score("a cat", PICTURES)
    assert "model" in vars(changed.vlm)
    named = RM.load("UnifiedReward-2.0-qwen-3b", files=folder, template=path, device="cpu")
    assert named.name == named.source.name == "UnifiedReward-2.0-qwen-3b"
    assert len(named.source.sha256) == 64


def test_folders_without_a_model_are_refused(folder, tmp_path):
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        RM.load("UnifiedReward-2.0", files=tmp_path, device="cpu")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(CheckpointError, match=r"no \*\.safetensors"):
        RM.load(tmp_path, template="yes-no", device="cpu")
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    judge = RM.load(tmp_path, template="yes-no", device="cpu")
    with pytest.raises(CheckpointError, match="Cannot load the VLM"):
        judge.score("a cat", PICTURES[0])
    for options in ({"served_model": "x"}, {"server": "http://127.0.0.1:9", "files": folder}):
        with pytest.raises(InputError):
            RM.load("UnifiedReward-2.0", **options)
    with pytest.raises(InputError, match="neither a folder nor the id"):
        RM.load("no-such-vlm", template="yes-no")


def test_refl_refuses_a_judge_before_it_loads_anything():
    from refl.checks.input_checks import check_rewards
    from refl.errors import RewardError

    for name in ("UnifiedReward-2.0", "CodeGoat24/UnifiedReward-2.0-qwen3vl-8b"):
        with pytest.raises(RewardError, match="VLM judge, and its answers have no gradient"):
            check_rewards([name])
    check_rewards(["UnifiedReward-2.0"], functions=["UnifiedReward-2.0"])
