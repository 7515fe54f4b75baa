"""Training from rankings within one process: learning, freezing, cache, resume, skipped images, reports."""

import io
import json
import math
import shutil
import zipfile
from dataclasses import replace

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
import yaml
from accelerate.state import AcceleratorState, GradientState
from PIL import Image
from ranked_images import write_json, write_rankings
from torch.utils._python_dispatch import TorchDispatchMode

import reward_core as RM
from reward_core.errors import CheckpointError, ClippedLevelsWarning, InputError, OutputError, TrainingError
from reward_core.rankings import RankedPrompt, read_rankings, untied_pairs
from reward_core.rankings.stored_images import ZippedImage
from reward_core.training import PRESETS, Trainer, TrainingConfig, initialize_from_scratch, load_settings
from reward_core.training import ranking_loss as exact_loss
from reward_core.training.batch_plan import BatchPlan
from reward_core.training.freezing import frozen_layers
from reward_core.training.setup import mixed_precision


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rankings")
    write_rankings(folder, "train", 20, seed=0)
    write_rankings(folder, "validation", 10, seed=1, images=4)
    write_rankings(folder, "test", 6, seed=2, images=4)
    return folder


@pytest.fixture(scope="module")
def start(folder, tmp_path_factory):
    """The folder of a randomly initialized model."""
    model = RM.load(folder, device="cpu")
    initialize_from_scratch(model, 0)
    path = tmp_path_factory.mktemp("start") / "model"
    model.save_pretrained(path)
    return path


@pytest.fixture
def fresh(folder):
    """A function that returns a randomly initialized model of the tiny size."""

    def fresh(seed: int = 0) -> RM.RewardModel:
        model = RM.load(folder, device="cpu")
        initialize_from_scratch(model, seed)
        return model

    return fresh


def settings(data, out, **changes) -> TrainingConfig:
    small = TrainingConfig(
        data=str(data), out=str(out), freeze=0.0, batch_size=4, accumulation=1, epochs=1, lr=2e-3,
        warmup_steps=2, validations=1, trackers=(), workers=2, cpu=True,
    )  # fmt: skip
    return replace(small, **changes)


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def losses(folder):
    return [row["loss"] for row in rows(folder) if "loss" in row]


def weights(model):
    return {key: tensor.clone() for key, tensor in model.state_dict().items()}


@pytest.mark.slow
def test_training_learns_and_writes_a_loadable_folder(fresh, data, tmp_path, command):
    out = tmp_path / "run"
    config = settings(
        data, out, epochs=24, batch_size=8, optimizer="muon", muon_lr=0.02, beta2=0.98, clip=5.0
    )
    done = Trainer(replace(config, trackers=("tensorboard",)), fresh()).train()
    assert done == out
    validations = [row for row in rows(out) if "validation/loss" in row]
    assert validations[0]["step"] == 0
    assert validations[-1]["validation/loss"] < 0.5 * validations[0]["validation/loss"]
    model = RM.load(out, device="cpu")
    report = command("evaluate", out, "--data", data / "test.json", "--json")
    assert json.loads(report.stdout)["pooled_accuracy"] > 0.85  # measured 0.97; chance is 0.5
    (last,) = [row for row in rows(out) if "test/accuracy" in row]
    assert last["test/accuracy"] == pytest.approx(json.loads(report.stdout)["pooled_accuracy"], abs=0.03)

    groups = read_rankings(data / "validation.json")
    scores = torch.cat([model.score_matrix([group.prompt], group.images)[0] for group in groups])
    assert scores.mean().item() == pytest.approx(0, abs=1e-3)
    assert scores.std(correction=0).item() == pytest.approx(1, abs=1e-3)
    assert "40 images of the validation set" in model.config.score_quantiles.source
    assert 40 < model.percentile(scores.median().item()) < 60
    assert (out / "curves.png").stat().st_size > 10_000
    assert list((out / "logs").rglob("events.out.tfevents*"))
    card = (out / "README.md").read_text()
    assert "train: 20 groups" in card
    assert f"| test | 6 | 24 | {6 * 6} | {last['test/accuracy']:.1%} |" in card
    assert "lr: 0.002" in card
    assert "Not better" not in card


@pytest.mark.slow
@pytest.mark.parametrize("average", ["prompt", "pair"])
def test_the_loss_of_a_step_covers_the_whole_batch(fresh, data, tmp_path, average):
    """Groups of unequal sizes in micro-batches of unequal lengths: 3 + 3 + 1."""
    changes = dict(batch_size=3, accumulation=3, steps=1, average=average, lr=0.1, optimizer="adam", clip=0.0)
    config = settings(data, tmp_path, dropout=0.0, **changes)
    model = fresh()
    model.eval()
    groups = read_rankings(data / "train.json")[:7]
    copy = fresh().requires_grad_()
    trainer = Trainer(config, without_dropout(model), {"train": groups, "validation": groups})
    rewards = (
        torch.cat(
            [
                copy(
                    torch.stack([copy.transform.from_pil(opened(image)) for image in group.images]),
                    *(t.expand(len(group.images), -1) for t in copy.tokenizer([group.prompt])),
                )
                for group in groups
            ]
        )
        * copy.config.reward_std
        + copy.config.reward_mean
    )
    loss = exact_loss(rewards, [group.ranks for group in groups], average)
    loss.backward()
    expected = {name: p.grad for name, p in copy.named_parameters() if p.grad is not None}
    gradients = {}
    trainer.optimizers[0].register_step_pre_hook(
        lambda *_: gradients.update(
            {n: p.grad.clone() for n, p in trainer.model.named_parameters() if p.grad is not None}
        )
    )
    trainer.train()
    assert losses(tmp_path)[0] == pytest.approx(loss.item(), rel=1e-5)
    assert gradients.keys() == expected.keys()
    for name, gradient in expected.items():
        assert torch.allclose(gradients[name], gradient, rtol=1e-3, atol=1e-5), name


def opened(path):
    from PIL import Image

    return Image.open(path)


def without_dropout(model):
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if hasattr(module, "drop_path"):
            module.drop_path = 0.0
        if type(module).__name__ == "MultiHeadAttention":
            module.dropout = 0.0
    return model


@pytest.mark.slow
def test_frozen_weights_do_not_change(fresh, data, tmp_path):
    model = fresh()
    before = weights(model)
    Trainer(settings(data, tmp_path, freeze=0.5, steps=2, lr=1e-4), model).train()
    changed = {key for key, tensor in model.state_dict().items() if not tensor.equal(before[key])}
    frozen = ("blip.visual_encoder.blocks.0.", "blip.text_encoder.encoder.layer.0.")
    frozen += ("blip.visual_encoder.pos_embed", "blip.visual_encoder.cls", "blip.visual_encoder.patch")
    frozen += ("blip.text_encoder.embeddings", "blip.vision_proj", "blip.text_proj")
    assert not [key for key in changed if key.startswith(frozen)]
    rest = {key for key in before if not key.startswith(frozen)}
    # The key bias shifts all logits of a query equally, so its gradient is only rounding noise.
    assert {key for key in rest if not key.endswith("key.bias")} <= changed
    assert (frozen_layers(24, 0.7), frozen_layers(12, 0.7), frozen_layers(24, 1.0)) == (16, 8, 24)


@pytest.mark.slow
def test_the_cache_changes_nothing(fresh, data, tmp_path):
    options = dict(freeze=0.5, epochs=3, validations=2)
    Trainer(settings(data, tmp_path / "without", **options), fresh()).train()
    trainer = Trainer(settings(data, tmp_path / "with", **options, cache=str(tmp_path / "cache")), fresh())
    trainer.train()
    cache = trainer.readers["train"].cache
    images = len(trainer.readers["train"].images)
    # A step is read while the previous one is computed, so at an epoch's end a few images are not cached yet.
    assert images <= cache.stored < 1.4 * images
    assert cache.found + cache.stored == 3 * images
    # Other batch sizes round differently: by about 1e-6 of a loss of 0.7 in the first steps.
    assert losses(tmp_path / "with") == pytest.approx(losses(tmp_path / "without"), rel=1e-4)

    # The next run reads all of the cache except a slot that was damaged in between.
    file = cache.folder / "tokens.bin"
    content = bytearray(file.read_bytes())
    content[100] ^= 1
    file.write_bytes(content)
    again = Trainer(settings(data, tmp_path / "again", **options, cache=str(tmp_path / "cache")), fresh())
    again.train()
    cache = again.readers["train"].cache
    assert cache.damaged == 1
    assert 1 <= cache.stored <= 6  # the group of that image
    # The damaged group is encoded in a separate batch, which rounds differently.
    assert losses(tmp_path / "again") == pytest.approx(losses(tmp_path / "with"), abs=5e-5)
    other = Trainer(settings(data, tmp_path / "other", **options, cache=str(tmp_path / "cache")), fresh(1))
    assert other.readers["train"].cache.folder != cache.folder  # other weights
    file.write_bytes(content[:1000])  # a file of the wrong size is replaced
    assert (
        Trainer(settings(data, tmp_path / "third", **options, cache=str(tmp_path / "cache")), fresh())
        .readers["train"]
        .cache.folder
        == cache.folder
    )
    assert file.stat().st_size == len(content)


@pytest.mark.slow
def test_images_within_tables_and_zips_are_cached(fresh, data, tmp_path):
    groups, others = read_rankings(data / "train.json")[:4], read_rankings(data / "validation.json")[:2]
    with zipfile.ZipFile(tmp_path / "pictures.zip", "w") as archive:
        for group in groups:
            for image in group.images:
                archive.write(image, f"{image.parent.name}/{image.name}")
    rows = [
        {"prompt": g.prompt, "images": [i.read_bytes() for i in g.images], "ranking": g.ranks} for g in groups
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "train.parquet")
    zipped = [
        replace(
            g,
            images=tuple(
                ZippedImage(tmp_path / "pictures.zip", f"{i.parent.name}/{i.name}") for i in g.images
            ),
        )
        for g in groups
    ]
    caches = {}
    for name, given in (
        ("files", groups),
        ("table", read_rankings(tmp_path / "train.parquet")),
        ("zip", zipped),
    ):
        config = settings(data, tmp_path / name, freeze=0.5, epochs=2, cache=str(tmp_path / "cache"))
        trainer = Trainer(config, fresh(), {"train": given, "validation": others})
        trainer.train()
        caches[name] = trainer.readers["train"].cache
        assert caches[name].stored >= len(trainer.readers["train"].images)
        assert losses(tmp_path / name) == losses(tmp_path / "files")
    assert len({cache.folder for cache in caches.values()}) == 3
    # If an image changes, another cache is used.
    with (
        zipfile.ZipFile(tmp_path / "pictures.zip", "a") as archive,
        pytest.warns(UserWarning, match="Duplicate"),
    ):
        archive.write(groups[0].images[1], zipped[0].images[0].member)
    other = Trainer(config, fresh(), {"train": zipped, "validation": others})
    assert other.readers["train"].cache.folder != caches["zip"].folder


@pytest.mark.slow
def test_a_small_cache_holds_some_images(fresh, data, tmp_path):
    config = settings(data, tmp_path, freeze=0.5, epochs=2, cache=str(tmp_path / "c"), cache_gb=6e-5)
    trainer = Trainer(config, fresh())
    trainer.train()
    cache = trainer.readers["train"].cache
    assert 0 < cache.slots < len(trainer.readers["train"].images)
    assert cache.tokens.nbytes <= 60_000
    assert cache.found > 0


@pytest.mark.slow
def test_a_resumed_run_is_bit_identical(fresh, data, tmp_path):
    options = dict(epochs=3, steps=6, validations=0, checkpoint_every=3, checkpoints=9, dropout=0.1)
    whole = fresh()
    Trainer(settings(data, tmp_path / "whole", **options), whole).train()
    half = Trainer(settings(data, tmp_path / "half", **options), fresh())
    half.train()
    (tmp_path / "half/checkpoints/step-000006").rename(tmp_path / "gone")
    resumed = fresh(seed=5)  # the initial weights do not matter: the checkpoint has the trained ones
    Trainer(settings(data, tmp_path / "half", **options), resumed).train()
    once_more = fresh(seed=5)
    Trainer(settings(data, tmp_path / "whole", **options), once_more).train(
        tmp_path / "whole/checkpoints/step-000003"
    )
    for key, tensor in whole.state_dict().items():
        if key.split(".")[1] not in ("vision_proj", "text_proj"):
            assert tensor.equal(resumed.state_dict()[key]), key
            assert tensor.equal(once_more.state_dict()[key]), key
    assert [row["step"] for row in rows(tmp_path / "half") if "loss" in row] == [1, 2, 3, 4, 5, 6]
    with pytest.raises(CheckpointError, match="its run has other settings or data"):
        Trainer(settings(data, tmp_path / "half", **{**options, "lr": 1e-4}), fresh()).train()
    weights_file = tmp_path / "half/checkpoints/step-000006/tensors.safetensors"
    weights_file.write_bytes(weights_file.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=r"step-000006': it is damaged .* Remove it to resume"):
        Trainer(settings(data, tmp_path / "half", **options), fresh()).train()
    with pytest.raises(InputError, match="no such checkpoint"):
        Trainer(settings(data, tmp_path / "half", **options), fresh()).train(tmp_path / "nowhere")


@pytest.mark.slow
def test_a_warm_up_takes_at_most_a_tenth_of_the_steps(fresh, data, tmp_path, caplog):
    """Also after a resume, bit for bit. The saved setting stays as given."""
    caplog.set_level("INFO")
    options = dict(epochs=4, steps=20, batch_size=1, warmup_steps=50, schedule="linear", validations=0)
    config = settings(data, tmp_path / "run", **options, checkpoint_every=10, checkpoints=9)
    model = fresh()
    trainer = Trainer(config, model)
    trainer.train()
    rates = [row["lr"] / config.lr for row in rows(tmp_path / "run") if "lr" in row]
    expected = [0.5, 1.0, *(1 - step / 18 for step in range(18))]
    assert rates == pytest.approx(expected, abs=1e-6)
    line = "warm-up shortened from 50 to 2 steps: at most 10% of the run's 20 steps"
    assert caplog.messages.count(line) == 1
    assert trainer.state.facts["warmup_steps"] == 50
    assert "warmup_steps: 50" in (tmp_path / "run/README.md").read_text()
    (tmp_path / "run/checkpoints/step-000020").rename(tmp_path / "gone")
    resumed = fresh(seed=5)
    Trainer(config, resumed).train()
    for key, tensor in model.state_dict().items():
        if key.split(".")[1] not in ("vision_proj", "text_proj"):
            assert tensor.equal(resumed.state_dict()[key]), key
    # A warm-up within the limit is neither changed nor mentioned.
    caplog.clear()
    Trainer(settings(data, tmp_path / "short", **{**options, "warmup_steps": 2}), fresh()).train()
    assert [row["lr"] / config.lr for row in rows(tmp_path / "short") if "lr" in row] == rates
    assert "warm-up" not in caplog.text


@pytest.mark.slow
def test_a_run_does_not_resume_with_other_data_or_weights(fresh, tmp_path):
    """The error names each change; after undoing it the run resumes. Moved data does not matter."""
    data = tmp_path / "data"
    records = write_rankings(data, "train", 8, seed=3, images=3)
    write_rankings(data, "validation", 3, seed=4, images=3)
    start = model_folder(fresh, tmp_path)
    config = settings(data, tmp_path / "run", init=str(start), freeze=0.5, steps=2, checkpoints=9)
    Trainer(config).train()

    def refused(output, **changes):
        with pytest.raises(CheckpointError, match=rf"other settings or data \({output}\)\. Restore them"):
            Trainer(replace(config, **changes)).train()

    image = data / records[0]["generations"][0]
    content = image.read_bytes()
    image.write_bytes((data / records[0]["generations"][1]).read_bytes())
    refused("the images of train")
    image.write_bytes(content)
    records[0]["ranking"].reverse()
    write_json(data / "train.json", records)
    refused("the rankings of train")
    records[0]["ranking"].reverse()
    write_json(data / "train.json", records)
    weights_file = start / "model.safetensors"
    whole = weights_file.read_bytes()
    for changed, output in (
        ("blip.visual_encoder.pos_embed", "the frozen weights to start from"),
        ("mlp.layers.0.weight", "the weights to start from"),
    ):
        model = RM.load(start, device="cpu")
        with torch.no_grad():
            dict(model.named_parameters())[changed].view(-1)[0] += 1
        model.save_pretrained(start)
        refused(output)
        weights_file.write_bytes(whole)
    refused("lr was 0.002, now 0.001", lr=1e-3)
    moved = tmp_path / "elsewhere"
    shutil.copytree(data, moved)
    assert Trainer(replace(config, data=str(moved), workers=1)).train() == tmp_path / "run"
    # For a model passed by the caller only the frozen weights must be the same.
    frozen = RM.load(start, device="cpu")
    with torch.no_grad():
        frozen.blip.visual_encoder.pos_embed[0, 0, 0] += 1
    with pytest.raises(CheckpointError, match="the frozen weights to start from"):
        Trainer(config, frozen).train()
    assert Trainer(config, RM.load(tmp_path / "run", device="cpu")).train() == tmp_path / "run"


@pytest.mark.slow
def test_a_folder_is_for_one_run_at_a_time(fresh, data, tmp_path):
    config = settings(data, tmp_path / "run", steps=2)
    second, first = Trainer(config, fresh()), Trainer(config, fresh())
    output = []

    def attempt(*_):
        with pytest.raises(OutputError) as caught:
            second.train()
        output.append(str(caught.value))

    first.optimizers[0].register_step_pre_hook(attempt)
    first.train()
    assert [text.partition(" (")[0] for text in output] == [
        f"Cannot use '{config.out}': another run is using it"
    ] * 2
    assert [row["step"] for row in rows(tmp_path / "run") if "loss" in row] == [1, 2]
    assert second.train() == tmp_path / "run"  # now it is free


@pytest.mark.slow
def test_bad_images_are_skipped_counted_and_listed(fresh, tmp_path, caplog):
    caplog.set_level("INFO")
    data = tmp_path / "data"
    records = write_rankings(data, "train", 8, seed=3, images=3)
    write_rankings(data, "validation", 4, seed=4, images=3)
    (data / records[0]["generations"][0]).write_bytes(b"")  # empty
    (data / records[1]["generations"][1]).unlink()  # missing
    whole = (data / records[2]["generations"][2]).read_bytes()
    (data / records[2]["generations"][2]).write_bytes(whole[: len(whole) // 2])  # damaged
    for k in (0, 1):
        (data / records[3]["generations"][k]).write_bytes(b"")  # one is left
    records[4]["ranking"] = [1, 1, 1]
    write_json(data / "train.json", records)
    Trainer(settings(data, tmp_path / "run", epochs=2), fresh()).train()
    listed = json.loads((tmp_path / "run/skipped.json").read_text())
    assert [item["image"].rpartition("/")[2] for item in listed] == [
        "0_0.png", "1_1.png", "2_2.png", "3_0.png", "3_1.png",
    ]  # fmt: skip
    assert [item["reason"].split(" ")[0] for item in listed] == ["the", "no", "damaged", "the", "the"]
    output = caplog.text
    assert "train: 6 groups, 4 images missing or empty" in output
    assert "1 groups dropped with fewer than two readable images, 1 dropped because all their" in output
    assert "5 images could not be read; see" in output
    pairs = [row["pairs"] for row in rows(tmp_path / "run") if "loss" in row]
    assert sum(pairs) == 2 * (3 * 3 + 3 * 1)  # three groups whole, three with one pair left
    card = (tmp_path / "run/README.md").read_text()
    assert "5 images that cannot be read" in card
    config = settings(data, tmp_path / "x", validation_share=0.0)
    with pytest.raises(InputError, match="Cannot use the train data: none of its 1 groups has two readable"):
        Trainer(config, fresh(), {"train": read_rankings(data / "train.json")[3:4]})


@pytest.mark.slow
def test_the_card_lists_skipped_images_and_the_selection_of_weights(fresh, tmp_path):
    """Also after a resume, when the damaged image is not read again, and without a validation set."""
    data = tmp_path / "data"
    records = write_rankings(data, "train", 6, seed=3, images=3)
    (data / records[0]["generations"][0]).write_bytes(b"no image")
    config = settings(data, tmp_path / "run", validation_share=0.0, steps=4, checkpoint_every=2, batch_size=6)
    config = replace(config, epochs=4, checkpoints=9)
    Trainer(config, fresh()).train()
    cards = [(tmp_path / "run/README.md").read_text()]
    listed = (tmp_path / "run/skipped.json").read_text()
    assert records[0]["generations"][0] in listed
    Trainer(config, fresh()).train()  # all steps are done: nothing is read again
    assert (tmp_path / "run/skipped.json").read_text() == listed
    cards.append((tmp_path / "run/README.md").read_text())
    for card in cards:
        assert "1 images that cannot be read" in card
        assert "Scores are not standardized, because there was no validation set." in card
        assert "the weights of step 4 (the last step; there was no validation set)" in card
        assert "unknown images" not in card
        assert "lowest validation" not in card
    saved = RM.load(tmp_path / "run", device="cpu").config
    assert (saved.reward_mean, saved.reward_std, saved.score_quantiles) == (0.0, 1.0, None)


@pytest.mark.slow
def test_images_in_memory_are_skipped_one_by_one(fresh, data, tmp_path):
    """They have no file names, so group and index identify them."""
    train, others = read_rankings(data / "train.json")[:6], read_rankings(data / "validation.json")[:2]
    groups = [
        replace(group, images=tuple(Image.open(io.BytesIO(path.read_bytes())) for path in group.images))
        for group in train
    ]
    number = next(i for i, group in enumerate(train) if len(group.images) > 2)
    first, bad, *rest = groups[number].images
    bad = Image.open(io.BytesIO(train[number].images[1].read_bytes()[:-500]))
    groups[number] = replace(groups[number], images=(first, bad, *rest))
    config = settings(data, tmp_path, epochs=2, freeze=0.5, cache=str(tmp_path / "cache"))
    trainer = Trainer(config, fresh(), {"train": groups, "validation": others})
    trainer.train()
    (listed,) = json.loads((tmp_path / "skipped.json").read_text())
    assert listed["image"] == f"<PIL image RGB 48x48> (train group {number}, image 1)"
    pairs = sum(untied_pairs(group.ranks) for group in train) - (len(rest) + 1)
    assert sum(row["pairs"] for row in rows(tmp_path) if "pairs" in row) == 2 * pairs
    assert "0 groups with fewer than two readable images" in (tmp_path / "README.md").read_text()


@pytest.mark.slow
def test_steps_without_pairs_are_skipped(fresh, tmp_path, caplog):
    caplog.set_level("INFO")
    data = tmp_path / "data"
    records = write_rankings(data, "train", 3, seed=3, images=2)
    write_rankings(data, "validation", 2, seed=4, images=3)
    for name in records[1]["generations"]:
        (data / name).write_bytes(b"no image")
    config = settings(data, tmp_path / "run", batch_size=1)
    trainer = Trainer(config, fresh())
    trainer.train()
    (bad,) = [i + 1 for i, step in enumerate(trainer.plan.steps) if step.micro_batches == ((1,),)]
    assert trainer.state.skipped == 1
    output = caplog.text
    assert f"step {bad} was skipped: no pair of its images can be read" in output
    assert "not finite" not in output
    steps = {row["step"]: row for row in rows(tmp_path / "run") if "pairs" in row}
    assert [step for step, row in steps.items() if "loss" not in row] == [bad]
    assert steps[3]["skipped"] == 1
    for record in records:
        for name in record["generations"]:
            (data / name).write_bytes(b"no image")
    with pytest.raises(TrainingError, match=r"all 3 steps were skipped: .*\.png' \(not an image"):
        Trainer(replace(config, out=str(tmp_path / "none")), fresh()).train()


@pytest.mark.slow
def test_a_loss_that_does_not_move_is_reported_with_its_reason(fresh, data, tmp_path, caplog):
    caplog.set_level("INFO")
    config = settings(data, tmp_path, head_init="original", init=str(model_folder(fresh, tmp_path)), lr=1e-7)
    trainer = Trainer(replace(config, epochs=3, stuck_after=10))
    trainer.train()
    output = caplog.text
    assert "which is log 2" in output
    assert "head_init=original" in output
    assert "set head_init=scaled" in output
    assert "Warning while training: stuck" in (tmp_path / "README.md").read_text()
    assert losses(tmp_path)[-1] == pytest.approx(math.log(2), abs=1e-3)
    caplog.clear()
    # With a scaled head the model learns and is not reported.
    config = settings(
        data, tmp_path / "scaled", init=config.init, head_init="scaled", epochs=3, stuck_after=10
    )
    Trainer(config).train()
    assert "log 2" not in caplog.text


def model_folder(fresh, tmp_path):
    fresh().save_pretrained(tmp_path / "start")
    return tmp_path / "start"


@pytest.mark.slow
def test_exploding_and_non_finite_runs_are_reported(fresh, data, tmp_path, caplog):
    caplog.set_level("INFO")
    trainer = Trainer(
        settings(data, tmp_path / "big", batch_size=1, accumulation=1, epochs=3, steps=28), fresh()
    )
    last = trainer.model.mlp.layers[-1].weight
    trainer.optimizers[0].register_step_post_hook(
        lambda *_: last.data.mul_(1e4) if trainer.state.step == 22 else None
    )
    trainer.train()
    assert caplog.text.count("times the usual") == 1
    assert "is too high" in caplog.text
    model = fresh()
    with torch.no_grad():
        model.mlp.layers[0].weight[0, 0] = math.nan
    config = settings(data, tmp_path / "nan", epochs=3, validation_share=0.0)
    with pytest.raises(TrainingError, match=r"10 steps in a row.*the weights are not finite"):
        Trainer(config, model, {"train": read_rankings(data / "train.json")}).train()
    assert "step 1 was skipped" in caplog.text


@pytest.mark.slow
def test_validations_that_are_not_finite_are_never_the_best(fresh, data, tmp_path, caplog):
    """Only validation and test have the word whose embedding becomes NaN after the second step."""
    caplog.set_level("INFO")
    train, held = read_rankings(data / "train.json"), read_rankings(data / "validation.json")
    given = {"train": train, "validation": [*held[:-1], replace(held[-1], prompt="a dog")], "test": held}

    def spoil(model):
        token = int(model.tokenizer(["dog"])[0][0, 1])
        with torch.no_grad():
            model.blip.text_encoder.embeddings.word_embeddings.weight[token] = math.nan

    trainer = Trainer(settings(data, tmp_path / "run", validations=3), fresh(), given)
    trainer.optimizers[0].register_step_post_hook(
        lambda *_: spoil(trainer.model) if trainer.state.step == 1 else None
    )
    trainer.train()
    output = caplog.text
    assert "rewards of 4 of 40 images are not finite; step 5 cannot be the best" in output
    seen = {row["step"]: row for row in rows(tmp_path / "run") if "validation/accuracy" in row}
    assert sorted(seen) == [0, 2, 3, 5]
    assert [step for step, row in seen.items() if "validation/loss" in row] == [0]
    assert trainer.state.best_step == 0
    verdict = "Not better than the model it started from: no step had a lower validation loss"
    assert caplog.text.count(verdict) == 1
    assert f"**{verdict}" in (tmp_path / "run/README.md").read_text()
    assert all(tensor.isfinite().all() for tensor in RM.load(tmp_path / "run", "cpu").state_dict().values())
    model = fresh()
    spoil(model)
    with pytest.raises(
        TrainingError, match=r"rewards were not finite in any validation.*the weights are not"
    ):
        Trainer(settings(data, tmp_path / "never"), model, given).train()
    model = fresh()
    spoil(model)
    Trainer(
        settings(data, tmp_path / "test"),
        model,
        {"train": train, "validation": held, "test": given["validation"]},
    ).train()
    assert "rewards of 4 of 40 images are not finite\n" in caplog.text


@pytest.mark.slow
def test_card_and_log_say_if_the_accuracy_did_not_rise(fresh, data, tmp_path, caplog):
    """The initial model already orders the only pair correctly, so training lowers only the loss."""
    group = read_rankings(data / "train.json")[0].only([0, 1])
    first, second = fresh().score(group.prompt, list(group.images))
    group = replace(group, ranks=(1, 2) if first > second else (2, 1))
    config = settings(data, tmp_path, epochs=4, lr=1e-4, dropout=0.0)
    trainer = Trainer(config, fresh(), {"train": [group], "validation": [group]})
    trainer.train()
    step = trainer.state.best_step
    assert step > 0
    verdict = (
        f"Not better than the model it started from: the weights of step {step} order 100.0% of the "
        "validation pairs correctly, the initial weights 100.0%."
    )
    assert caplog.messages.count(verdict) == 1
    assert f"**{verdict}**" in (tmp_path / "README.md").read_text()


@pytest.mark.slow
def test_early_stop_keeps_the_best(fresh, data, tmp_path):
    diverging = settings(data, tmp_path, epochs=30, lr=0.05, validations=2, patience=2)
    trainer = Trainer(diverging, fresh())
    trainer.train()
    assert trainer.state.stopped
    assert trainer.state.step < len(trainer.plan.steps)
    seen = {row["step"]: row["validation/loss"] for row in rows(tmp_path) if "validation/loss" in row}
    assert min(seen, key=seen.get) == trainer.state.best_step


def test_a_model_rounded_to_16_bits_is_refused(folder, data, tmp_path):
    model = RM.load(folder, device="cpu")
    model.set_encoder_dtype(torch.bfloat16)  # as precision="fast" does on processors with bfloat16 units
    with pytest.raises(InputError, match=r'rounded to torch.bfloat16.*Load it with precision="exact"'):
        Trainer(settings(data, tmp_path), model)


def test_images_compared_in_training_and_validation_are_reported(fresh, data, tmp_path, caplog):
    caplog.set_level("INFO")
    train = read_rankings(data / "train.json")
    held = read_rankings(data / "validation.json")
    other = "dark night" if train[1].prompt == "light day" else "light day"
    shared = [
        train[0],
        replace(train[1], prompt=other),
        replace(held[0], images=(train[2].images[0], *held[0].images[1:]), prompt=train[2].prompt),
        train[3].only([0, 1]),
    ]
    Trainer(settings(data, tmp_path), fresh(), {"train": train, "validation": held + shared, "test": held})
    output = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert [line.partition(" compare")[0] for line in output] == ["2 of 14 groups of the validation data"]


def test_a_missing_validation_set_is_held_out_by_prompt(fresh, data, tmp_path, caplog):
    caplog.set_level("INFO")
    groups = [
        replace(g, prompt=f"{g.prompt} {i // 2}") for i, g in enumerate(read_rankings(data / "train.json"))
    ]
    trainer = Trainer(settings(data, tmp_path, validation_share=0.2), fresh(), {"train": groups})
    prompts = {name: {g.prompt for g in reader.groups} for name, reader in trainer.readers.items()}
    assert len(prompts["validation"]) >= 2
    assert not prompts["train"] & prompts["validation"]
    assert "no validation set: holding out" in caplog.text


def test_presets_and_settings(tmp_path):
    original = load_settings(preset="original")
    assert (original.optimizer, original.lr, original.beta1, original.beta2, original.epsilon) == (
        "adam", 1e-5, 0.9, 0.999, 1e-8,
    )  # fmt: skip
    assert (original.schedule, original.warmup_steps, original.epochs, original.validations) == (
        "cosine",
        0,
        10,
        4,
    )
    assert (original.batch_size, original.accumulation, original.batch_unit) == (4, 4, "pairs")
    assert (original.freeze, original.head_init, original.average) == (0.7, "original", "pair")
    assert (original.drop_path, original.dropout, original.clip) == (0.1, 0.1, 0.0)
    assert load_settings().head_init == ""  # scaled for BLIP
    (tmp_path / "run.yaml").write_text("lr: 3e-5\ntrackers: [wandb]\nmixed_precision: no\n")
    mixed = load_settings(tmp_path / "run.yaml", "original", ["epochs=2"])
    assert (mixed.lr, mixed.epochs, mixed.optimizer, mixed.trackers) == (3e-5, 2, "adam", ("wandb",))
    assert mixed.mixed_precision == "no"
    for wrong, output in (
        ("learning=1", "the setting 'learning': unknown"),
        ("epoch=1", "Did you mean 'epochs'"),
        ("lr=fast", "Cannot use lr='fast': it must be a number."),
        ("average=mean", "Cannot use average='mean': it must be one of 'prompt', 'pair'."),
        ("freeze=1.5", "Cannot use freeze=1.5: it must be a fraction"),
        ("lr", "key=value"),
    ):
        with pytest.raises(InputError, match=output.replace("(", r"\(")):
            load_settings(settings=[wrong])
    with pytest.raises(InputError, match="Known presets: original"):
        load_settings(preset="none")
    assert PRESETS.keys() == {"original"}


@pytest.mark.parametrize(
    "name", ["on", "off", "null", "010", "1_000", "1.50", "2024-01-01", "a: b", "a #1", "[x]"]
)
def test_folder_names_are_taken_as_typed(start, tmp_path, command, monkeypatch, name):
    """YAML would read these names as booleans, numbers, dates or mappings."""
    monkeypatch.chdir(tmp_path)
    write_rankings(tmp_path / name, "train", 4, seed=0, images=2)
    given = ("--data", name, "--images", name, "--out", name, "--init", start, "--cache", name)
    done = command("train", *given, "cpu=true", "--set", "epochs=3", "--dry-run", "seed=5")
    assert done.returncode == 0, done.stderr
    printed = yaml.safe_load(done.stdout.partition("data: train")[0])
    assert [printed[key] for key in ("data", "images", "out", "cache")] == [name] * 4
    assert (printed["cpu"], printed["epochs"], printed["seed"]) == (True, 3, 5)
    if name != "null":  # unquoted, it means None
        assert load_settings(settings=[f"out={name}", "cache="]).out == name
    assert load_settings(settings=[f"out={json.dumps(name)}"]).out == name


def test_the_plan_never_splits_a_group():
    pairs = [36, 10, 1, 3, 28, 6, 15, 21, 3, 10, 6, 1]
    config = TrainingConfig(epochs=2, batch_unit="pairs", batch_size=4, accumulation=4)
    plan = BatchPlan(pairs, config, ranks=1)
    for epoch in (0, 1):
        seen = [
            g for step in plan.steps if step.epoch == epoch for micro in step.micro_batches for g in micro
        ]
        assert sorted(seen) == list(range(len(pairs)))
    for step in plan.steps[: len(plan.steps) // 2 - 1]:
        sizes = [pairs[g] for micro in step.micro_batches for g in micro]
        assert sum(sizes) >= 16 > sum(sizes[:-1])
    one = BatchPlan(pairs, TrainingConfig(epochs=1, batch_size=2, accumulation=2), 1)
    two = BatchPlan(pairs, TrainingConfig(epochs=1, batch_size=2, accumulation=1), 2)
    assert one.steps == two.steps
    odd = BatchPlan(pairs[:7], TrainingConfig(epochs=1, batch_size=1, accumulation=2), 2)
    assert odd.steps[1].of_rank(1, 2) == [odd.steps[1].micro_batches[1], ()]


@pytest.mark.slow
def test_gradient_checkpointing_changes_nothing(fresh, data, tmp_path):
    for name, on in (("with", True), ("without", False)):
        Trainer(settings(data, tmp_path / name, steps=3, gradient_checkpointing=on), fresh()).train()
    # Recomputed activations may come from other kernels and round differently.
    assert losses(tmp_path / "with") == pytest.approx(losses(tmp_path / "without"), abs=5e-5)


def test_merged_passes_compute_the_same_and_are_split_if_memory_runs_out(fresh, data, tmp_path):
    """Here a pass of more than ten images does not fit into memory."""
    found, sizes = [], []
    for merged, most in ((False, math.inf), (True, math.inf), (True, 10)):
        out, seen = tmp_path / f"{merged}-{most}", []
        passes = {"merge_passes": merged, "batch_size": 1, "accumulation": 4, "steps": 3}
        config = settings(data, out, dropout=0.0, **passes)
        trainer = Trainer(config, without_dropout(fresh()))

        def limited(_, inputs, seen=seen, most=most):
            if torch.is_grad_enabled():
                seen.append(len(inputs[0]))
                if len(inputs[0]) > most:
                    raise torch.OutOfMemoryError("more images than this test allows")

        trainer.rewards.register_forward_pre_hook(limited)
        trainer.train()
        found.append((losses(out), weights(trainer.model)))
        sizes.append(seen)
    for step_losses, trained in found[1:]:
        assert step_losses == pytest.approx(found[0][0], rel=1e-4)
        for name, weight in found[0][1].items():
            torch.testing.assert_close(trained[name], weight, rtol=1e-3, atol=1e-4)
    assert [len(seen) for seen in sizes[:2]] == [12, 3]
    assert sum(size > 10 for size in sizes[2]) == 1  # then passes are smaller


class AttentionBackwardDtypes(TorchDispatchMode):
    """Collects the dtypes of the backward passes of attention."""

    def __init__(self):
        super().__init__()
        self.dtypes = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if "attention" in str(func) and "backward" in str(func):
            self.dtypes.append(args[0].dtype)
        return func(*args, **(kwargs or {}))


@pytest.fixture
def other_precision():
    """Let a test choose its precision: accelerate keeps the first one of a process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize(
    ("launched", "expected"),
    [(None, "bf16"), ("", "bf16"), ("no", "bf16"), ("fp16", "fp16"), ("bf16", "bf16")],
)
def test_auto_is_bf16_unless_the_launcher_was_given_a_precision(monkeypatch, launched, expected):
    """accelerate launch sets the variable to "no" if the user chose nothing."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    if launched is not None:
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", launched)
    assert mixed_precision(TrainingConfig()) == expected
    assert mixed_precision(TrainingConfig(mixed_precision="no")) == "no"
    assert mixed_precision(TrainingConfig(cpu=True)) == ("no" if launched in (None, "", "no") else expected)


def test_muon_is_refused_with_fp16_of_the_launcher(data, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    with pytest.raises(InputError, match="optimizer=muon with mixed_precision=fp16"):
        Trainer(settings(data, tmp_path, optimizer="muon"))


@pytest.mark.slow
@pytest.mark.usefixtures("other_precision")
def test_accumulation_ignores_the_variable_of_accelerate(fresh, data, tmp_path, monkeypatch):
    """accelerate launch sets this variable from its configuration."""
    norms = []
    for steps in ("1", "4"):
        monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", steps)
        GradientState._reset_state()
        Trainer(settings(data, tmp_path / steps, steps=1, validations=0), fresh()).train()
        norms += [row["gradient_norm"] for row in rows(tmp_path / steps) if "gradient_norm" in row]
    assert norms[0] == norms[1]


@pytest.mark.slow
@pytest.mark.usefixtures("other_precision")
@pytest.mark.parametrize("gradient_checkpointing", [True, False])
def test_attention_is_computed_backward_in_float32_under_bf16_on_a_cpu(
    fresh, data, tmp_path, gradient_checkpointing
):
    """torch's backward pass is 4 times slower in bfloat16."""
    config = settings(
        data, tmp_path, steps=1, validations=0, mixed_precision="bf16",
        gradient_checkpointing=gradient_checkpointing,
    )  # fmt: skip
    with AttentionBackwardDtypes() as backward:
        Trainer(config, fresh()).train()
    assert set(backward.dtypes) == {torch.float32}


@pytest.mark.slow
def test_training_warns_once_about_16_bit_images(fresh, data, tmp_path):
    images = tuple(Image.fromarray(np.full((48, 48), 1000 * i, dtype=np.uint16)) for i in range(1, 5))
    group = RankedPrompt("0", "a red circle", images, (1, 2, 3, 4))
    splits = {"train": [group], "validation": read_rankings(data / "validation.json")[:1]}
    with pytest.warns(ClippedLevelsWarning, match="train group 0, image 0.*Convert it to 8 bits") as caught:
        Trainer(settings(data, tmp_path, epochs=2, validations=0), fresh(), splits).train()
    assert len([w for w in caught if w.category is ClippedLevelsWarning]) == 1
