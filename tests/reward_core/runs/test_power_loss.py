"""Power loss: the content of files is on the disk before they are renamed."""

import json
import sys
from dataclasses import replace

import pytest
from ranked_images import write_rankings
from synced_files import recorded

import reward_core as RM
from reward_core.errors import CheckpointError, InputError
from reward_core.prepare import prepare_rankings
from reward_core.training import Trainer, TrainingConfig

linux = pytest.mark.skipif(sys.platform != "linux", reason="looks up file descriptors in /proc")


@pytest.fixture
def data(tmp_path):
    write_rankings(tmp_path / "data", "train", 4, seed=3, images=2)
    write_rankings(tmp_path / "data", "validation", 2, seed=4, images=2)
    return tmp_path / "data"


@pytest.fixture
def some(folder, data, tmp_path):
    """Return settings of a run that writes three checkpoints."""
    return TrainingConfig(
        init=str(folder), data=str(data), out=str(tmp_path / "run"), epochs=1, steps=3, batch_size=1,
        accumulation=1, checkpoint_every=1, checkpoints=1, freeze=0.5, trackers=(), workers=1, cpu=True,
    )  # fmt: skip


@pytest.mark.slow
@linux
def test_a_checkpoint_is_on_the_disk_before_older_ones_are_removed(some, monkeypatch):
    with recorded(monkeypatch) as found:
        Trainer(some).train()
    checkpoints = [name for name in found.names if name.startswith("step-")]
    assert checkpoints == ["step-000001", "step-000002", "step-000003"]
    assert {"model.safetensors", "config.json", "README.md", "curves.png"} <= set(found.names)
    assert found.unsynced == []
    assert found.unsynced_folders == set()
    assert "step-000002" in found.beside["step-000003"]  # removed later


@linux
def test_saved_models_and_prepared_data_are_on_the_disk(model, data, tmp_path, monkeypatch):
    with recorded(monkeypatch) as found:
        model.save_pretrained(tmp_path / "saved")
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= set(found.names)
    assert found.unsynced == []
    assert found.unsynced_folders == set()
    with recorded(monkeypatch) as found:
        prepare_rankings(tmp_path / "prepared", data / "train.json", copy=True, validation=0, test=0)
    assert {"source.json", "prepared.json", "train.json"} <= set(found.names)
    images = [index for index, name in enumerate(found.names) if name.endswith(".png")]
    assert max(images) < found.names.index("os.sync") < found.names.index("train.json")
    assert found.unsynced == []
    assert found.unsynced_folders == set()


@pytest.mark.slow
def test_the_error_for_a_run_of_an_older_version_names_it(some, tmp_path):
    Trainer(some).train()
    state = tmp_path / "run/checkpoints/step-000003/state.json"
    document = json.loads(state.read_text())
    assert document["format_version"] == 2
    for version, advice in ((1, "Choose another output folder"), (3, "newer version wrote it: update")):
        state.write_text(json.dumps({**document, "format_version": version}))
        with pytest.raises(CheckpointError, match=rf"step-000003.*format {version}, .* 2\..*{advice}"):
            Trainer(replace(some, steps=3)).train()


def test_the_error_for_a_model_of_a_newer_version_names_it(model, tmp_path):
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["format_version"] == 1
    (tmp_path / "config.json").write_text(json.dumps({**config, "format_version": 9}))
    with pytest.raises(
        CheckpointError, match=r"config\.json.*format 9, .* reads format 1\..*update reward-core"
    ):
        RM.load(tmp_path, device="cpu")


def test_the_error_for_data_of_a_newer_version_names_it(data, tmp_path):
    out = tmp_path / "prepared"
    prepare_rankings(out, data / "train.json")
    prepare_rankings(out, data / "train.json")  # prepare the same data again
    source = json.loads((out / "source.json").read_text())
    assert source["format_version"] == json.loads((out / "prepared.json").read_text())["format_version"] == 1
    (out / "source.json").write_text(json.dumps({**source, "format_version": 9}))
    with pytest.raises(InputError, match=r"source\.json.*has format 9, this version reads format 1\."):
        prepare_rankings(out, data / "train.json")
