"""A dry run needs configuration files, and no weights."""

import pytest
import torch
import yaml
from tiny_pipelines import configuration_of

from refl.cli import main
from refl.families import load_family

PRESETS = {
    "sd": "sd15-lora",
    "sdxl": "sdxl-lora",
    "sd3": "sd3-lora",
    "flux": "flux1-lora",
    "flux2": "flux2-klein-lora",
    "z-image": "z-image-lora",
    "qwen-image": "qwen-image-lora",
}


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("a red circle\na blue square\n")
    return path


def dry_run(model, prompts, *more):
    return main(
        ["train", "--dry-run", "--model", str(model), "--prompts", str(prompts), "--out",
         str(prompts.parent / "run"), "--set", "rollout.height=32", "--set", "run.cpu=true",
         "--set", "run.mixed_precision=no", *more]
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("family", PRESETS)
def test_presets_are_checked_without_weights(pipelines, tmp_path, prompts, capsys, family):
    model = configuration_of(pipelines(family), tmp_path / "model")
    assert dry_run(model, prompts, "--preset", PRESETS[family], "--reward", "tiny") == 0
    without = capsys.readouterr().out
    settings, _, plan = without.partition("\n\n")
    assert yaml.safe_load(settings)["rollout"]["sampler"] == {"sd": "ddim", "sdxl": "euler"}.get(
        family, "flow"
    )
    loaded = load_family(pipelines(family))
    parts = [m for m in loaded.pipeline.components.values() if isinstance(m, torch.nn.Module)]
    total = sum(p.numel() for m in parts for p in m.parameters())
    trained = int(plan.split("parameters: ")[1].split(" trained")[0].replace(",", ""))
    assert f"trained of {total + trained:,}" in plan
    assert "memory (estimate, not measured): " in plan


@pytest.mark.parametrize("family", PRESETS)
def test_shapes_of_conditions_are_those_of_encoded_prompts(pipelines, family):
    loaded = load_family(pipelines(family))
    encoded = loaded.encode(["a boat", "two cats"]).positive
    shapes, expected = {n: tuple(v.shape[1:]) for n, v in encoded.items()}, loaded.condition_shapes()
    if family in ("z-image", "qwen-image"):  # as many tokens as the longest prompt has
        shapes, expected = ({n: shape[1:] for n, shape in s.items()} for s in (shapes, expected))
    assert shapes == expected


def test_missing_and_invalid_configurations_are_refused(pipelines, tmp_path, prompts, capsys):
    model = configuration_of(pipelines("sd"), tmp_path / "model")
    (model / "unet/config.json").unlink()
    assert dry_run(model, prompts, "--reward", "tiny") == 2
    assert "Cannot read the configuration in" in capsys.readouterr().err
    (model / "model_index.json").write_text('{"_class_name": "NoPipeline"}')
    assert dry_run(model, prompts, "--reward", "tiny") == 2
    assert "diffusers has no pipeline 'NoPipeline'" in capsys.readouterr().err
