"""The refl command, its settings and prompts, and errors reported before training."""

import dataclasses
import http.server
import inspect
import json
import os
import subprocess
import sys
import threading

import pytest
import torch
import yaml
from hub_server import Hub

import refl
from refl.cli import main
from refl.config import TrainConfig
from refl.config.checks import check_config
from refl.config.presets import PRESETS
from refl.data.prompts import DataOrder, read_prompts
from refl.errors import ConfigError, ModelError, PromptFileError, RewardError


@pytest.mark.slow
def test_the_original_example_runs(pipelines, tmp_path):
    prompts = tmp_path / "refl_data.json"
    prompts.write_text(
        json.dumps([{"text": "a boat", "image": "000044-0048"}, {"text": "a cat", "image": "1"}])
    )
    args = refl.parse_args(
        ["--grad_scale", "0.01", "--train_batch_size", "1", "--max_train_steps", "1", "--output_dir",
         str(tmp_path / "out"), "--resolution", "16", "--mixed_precision", "no", "--set", "rollout.steps=40",
         "--set", "rewards=[{name: tiny}]", "--set", "run.trackers=[]", "--gradient_accumulation_steps", "2"]
    )  # fmt: skip
    trainer = refl.Trainer(str(pipelines("sd")), str(prompts), args=args)
    trainer.train(args=args)
    rows = trainer.metrics.read()
    assert 0 < rows[1]["loss"] < 0.1  # 0.01 * relu(2 - r)
    assert (tmp_path / "out" / "model" / "unet").is_dir()  # sd14-paper trains all weights


def test_flags_of_the_original_are_mapped_or_ignored_with_a_warning(capsys, caplog):
    config = refl.parse_args(
        ["--use_ema", "--learning_rate=2e-5", "--gradient_checkpointing", "--noise_offset", "0.1",
         "--scale_lr", "--checkpoints_total_limit", "5", "--use_8bit_adam", "--seed", "7",
         "--report_to", "wandb"]
    )  # fmt: skip
    assert config.optimizer.ema_decay == 0.9999
    assert config.optimizer.lr == 2e-5
    assert config.optimizer.eight_bit
    assert config.model.gradient_checkpointing
    assert config.run.checkpoints == 5
    assert config.run.seed == 7
    assert config.run.trackers == ("wandb",)
    output = caplog.text
    assert "--noise_offset is ignored: it has no effect in the original" in output
    assert "--scale_lr is ignored: set the final value" in output
    with pytest.raises(SystemExit):
        refl.parse_args(["--no_such_flag"])
    with pytest.raises(SystemExit):
        refl.parse_args(["--train_batch_size", "many"])
    assert "Cannot use run.batch_size='many': it must be a whole number." in capsys.readouterr().err


def test_the_paper_preset_has_the_published_values():
    config = refl.parse_args([])
    assert (config.run.batch_size, config.run.accumulation, config.run.steps) == (2, 4, 100)
    assert (config.strategy.name, config.strategy.bounds(config.rollout.steps)) == ("refl", (30, 39))
    assert (config.rollout.height, config.rollout.steps, config.rollout.guidance_scale) == (512, 40, 1.0)
    assert (config.optimizer.lr, config.optimizer.schedule) == (1e-5, "constant")
    assert config.optimizer.ema_decay > 0
    assert config.run.mixed_precision == "fp16"
    assert check_config(config).rewards[0] == refl.config.RewardConfig("ImageReward-v1.0", 1.0, "relu", 2.0)


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_round_trip_through_yaml(preset, tmp_path):
    config = refl.load_config(preset=preset)
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(config.to_dict()))
    assert refl.load_config(path) == config


@pytest.mark.parametrize(("strategy", "scale"), [("refl", 0.001), ("drtune", 0.001), ("nft", 1), ("grpo", 1)])
def test_the_scale_of_the_reward_depends_on_the_strategy_unless_it_is_set_or_saved(strategy, scale, tmp_path):
    def reward_scale(*more, file=None):
        config = refl.load_config(file, settings=[f"strategy.name={strategy}", *more])
        return check_config(config).loss.reward_scale

    assert reward_scale() == reward_scale("loss.reward_scale=null") == scale
    assert reward_scale("loss.reward_scale=0") == 0
    saved = tmp_path / "settings.yaml"  # of a run with another strategy
    other = check_config(
        refl.load_config(settings=["strategy.name=" + ("grpo" if strategy == "refl" else "refl")])
    )
    saved.write_text(yaml.safe_dump(other.to_dict()))
    assert reward_scale(file=saved) == other.loss.reward_scale
    more = [f"strategy.name={strategy}", "strategy.first=null", "strategy.last=null"]
    with_preset = refl.load_config(preset="sd14-paper", settings=more)
    assert check_config(with_preset).loss.reward_scale == scale


def test_a_file_overrides_a_preset_and_settings_override_both(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(
        "optimizer: {lr: 3e-5}\nrun: {steps: 7}\nrewards: [{name: tiny}, {name: CLIP, weight: 0}]\n"
    )
    config = refl.load_config(path, "sd15-lora", ["run.steps=9", "model.revision=main"])
    assert (config.optimizer.lr, config.run.steps, config.run.accumulation) == (3e-5, 9, 4)
    assert config.model.revision == "main"
    assert [reward.name for reward in config.rewards] == ["tiny", "CLIP"]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("optimiser.lr=1", "Cannot use the setting 'optimiser': unknown. Did you mean 'optimizer'"),
        ("optimizer.learning=1", "Cannot use the setting 'optimizer.learning': unknown"),
        ("steps=9", "the setting 'steps': unknown. Did you mean .*'run.steps'"),
        ("batchsize=2", "Did you mean .*'run.batch_size'"),
        ("model.guidance_scale=4", "Did you mean 'rollout.guidance_scale'"),
        ("optimizer.lr=fast", "Cannot use optimizer.lr='fast': it must be a number."),
        ("run.steps=1.5", "run.steps=1.5: it must be a whole number"),
        ("run.steps=true", "run.steps=True: it must be a whole number"),
        ("model.compile=1", "model.compile=1: it must be true or false"),
        ("run=5", "run=5: expected nested settings"),
        ("run.batch_size=0", "Cannot use run.batch_size=0: it must be at least 1."),
        ("run.mixed_precision=fp8", "must be one of no, bf16, fp16"),
        ("strategy.name=ppo", "strategy.name='ppo': it must be one of refl"),
        ("strategy.k=0", None),
        ("optimizer.ema_decay=1", r"must be in \[0, 1\)"),
        ("rewards=[{name: a, weight: 0}]", "at least one must have a weight"),
        ("rewards=[{name: a}, {name: a}]", "the rewards a, a: their names must be unique"),
        ("rewards=[{nam: a}]", r"the setting 'rewards\[0\].nam': unknown. Did you mean 'name'"),
        (
            "validation.stop_reward=CLIP",
            "validation.stop_reward='CLIP': it must be one of ImageReward-v1.0",
        ),
        ("validation.batch_size=-1", "validation.batch_size=-1: it must be at least 0"),
        ("validation.steps=-1", "validation.steps=-1: it must be at least 0"),
        ("optimizer.warmup_steps=-1", "optimizer.warmup_steps=-1: it must be at least 0"),
        ("validation={stop_diversity: 0.7, seeds: 1}", "stop_diversity: it needs at least 2 seeds"),
        (
            "validation={stop_diversity: 0.7, prompts: 0}",
            "stop_diversity: it has no effect without validation prompts",
        ),
        (
            "validation={stop_reward: ImageReward-v1.0, prompts: 0}",
            "stop_reward: it has no effect without validation prompts",
        ),
        ("run.steps", "must have the form key=value"),
        ("run.steps=[", r"run.steps='\[': it must be a whole number"),
    ],
)
def test_invalid_settings_are_refused(setting, message):
    if message is None:  # unused by this strategy
        assert refl.load_config(settings=[setting])
        return
    with pytest.raises(ConfigError, match=message):
        refl.load_config(settings=[setting])


def test_unreadable_config_files_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"Cannot read settings from .*none\.yaml'"):
        refl.load_config(tmp_path / "none.yaml")
    for text, message in (
        ("[1]", "expected keys and values"),
        ("a: [", "not a YAML file"),
        ("", "got NoneType"),
    ):
        (tmp_path / "bad.yaml").write_text(text)
        with pytest.raises(ConfigError, match=message):
            refl.load_config(tmp_path / "bad.yaml")
    with pytest.raises(ConfigError, match=r"the preset 'sd15-lor': unknown\. Did you mean 'sd15-lora'"):
        refl.load_config(preset="sd15-lor")


def test_every_setting_is_documented_and_read():
    source = "".join(
        path.read_text()
        for path in refl_sources()
        if path.parent.name != "config" or path.name in ("strategy.py", "rollout_plans.py")
    )
    for section in dataclasses.fields(TrainConfig):
        kind = {"rewards": refl.config.RewardConfig}.get(section.name) or section.default_factory
        if not dataclasses.is_dataclass(kind):
            continue
        for field in dataclasses.fields(kind):
            name = f"{section.name}.{field.name}"
            assert f"\n    {field.name}: " in inspect.getdoc(kind), f"{name} is not documented"
            assert f".{field.name}" in source, f"{name} is never read"


def refl_root():
    import pathlib

    return pathlib.Path(refl.__file__).parent


def refl_sources():
    return sorted(refl_root().rglob("*.py"))


# Prompts


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        (
            "a.json",
            '[{"text": " a cat ", "image": "1"}, {"prompt": "a dog"}, "a cow"]',
            ["a cat", "a dog", "a cow"],
        ),
        ("a.jsonl", '{"caption": "a cat"}\n\n"a dog"\n', ["a cat", "a dog"]),
        ("a.txt", "a cat\n\n  a dog  \n", ["a cat", "a dog"]),
        ("a.jsonl", '"a cat\u2028asleep"\r\n{"text": "a\u0085dog"}', ["a cat\u2028asleep", "a\u0085dog"]),
        (
            "a.csv",
            'id,prompt\n1,"a cat, ""asleep""\nand a dog"\n\n2,\n3,a cow\n',
            ['a cat, "asleep"\nand a dog', "a cow"],
        ),
        ("a.tsv", "text\tid\na cat, asleep\t1\n", ["a cat, asleep"]),
    ],
)
def test_prompt_files_are_read(tmp_path, name, text, expected):
    (tmp_path / name).write_text(text)
    assert read_prompts(tmp_path / name) == expected


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.json", None, "Cannot read prompts from .*none.json': No such file"),
        ("a.json", b"[", "not valid JSON"),
        ("a.json", b'{"text": "a"}', "must contain a list of prompts, contains dict"),
        ("a.json", b"[]", "contains no prompts"),
        ("a.txt", b"\n\n", "contains no prompts"),
        ("a.json", b'["a", 3]', "entry 2 must be a string, got int"),
        ("a.json", b'[{"words": "a"}]', "entry 1 has none of text, prompt, caption"),
        ("a.txt", b"\xff\xfe\x00", "not UTF-8"),
        ("a.json", b"[" * 100_000, "not valid JSON"),
        ("a.csv", b"id,words\n1,a cat\n", "name a column text or prompt or caption, it names id, words"),
        ("a.csv", b"", "it names nothing"),
        ("a.tsv", b"prompt\n", "contains no prompts"),
        ("a.csv", b"prompt\n" + b"a" * 200_000, "field larger than field limit .*after line 1"),
    ],
)
def test_invalid_prompt_files_are_refused(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(PromptFileError, match=message) as caught:
        read_prompts(tmp_path / name)
    assert name in str(caught.value)


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.csv", "a.tsv", "a.txt"])
def test_prompt_files_above_the_size_limit_are_refused(tmp_path, monkeypatch, name):
    rows = ['{"prompt": "a"}' if "json" in name else "a"] * 500
    text = f"[{','.join(rows)}]" if name == "a.json" else "\n".join(["prompt", *rows][".json" in name :])
    (tmp_path / name).write_text(text)
    assert len(read_prompts(tmp_path / name)) >= 500
    for limit in ("VALUES", "JSON_BYTES"):
        with monkeypatch.context() as patch:
            patch.setenv(f"REWARD_CORE_MAX_{limit}", "900")
            with pytest.raises(PromptFileError, match=f"REWARD_CORE_MAX_{limit} sets another limit"):
                read_prompts(tmp_path / name)


def test_a_pipe_of_prompts_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "a.txt")
    with pytest.raises(PromptFileError, match="this is a named pipe"):
        read_prompts(tmp_path / "a.txt")


def test_every_epoch_is_shuffled_differently():
    order = DataOrder(5, seed=3)
    epochs = [[order[5 * epoch + i] for i in range(5)] for epoch in range(20)]
    assert all(sorted(epoch) == [0, 1, 2, 3, 4] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 10
    assert [order[i] for i in range(5)] == epochs[0]  # random access gives the same


# Invalid arguments


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (lambda pixels, prompts: pixels.mean(), r"returned a tensor \(\) instead of \(2,\)"),
        (
            lambda pixels, prompts: pixels.mean((1, 2, 3))[:, None],
            r"returned a tensor \(2, 1\) instead of \(2,\)",
        ),
        (lambda pixels, prompts: [0.5, 0.5], "returned list instead of a tensor"),
        (lambda pixels, prompts: torch.zeros(2), "it has no gradient"),
        (
            lambda pixels, prompts: 1 / 0,
            r"two prompts with ZeroDivisionError: division by zero \(.*test_cli\.py, line \d+\)\. Correct",
        ),
        (
            lambda images, prompts: [i.getpixel((0, 0))[0] for i in images],
            "PIL images needs strategy.name=nft",
        ),
    ],
)
def test_rewards_with_wrong_outputs_are_refused(pipelines, tmp_path, reward, message):
    config = refl.load_config(settings=[f"run.out={tmp_path}", "rewards=[{name: mine}]", "rollout.height=16"])
    with pytest.raises(RewardError, match=message) as caught:
        refl.Trainer(pipelines("sd"), ["a"], config, {"mine": reward})
    assert "'mine'" in str(caught.value)
    assert not (tmp_path / "metrics.jsonl").exists()


def test_invalid_arguments_are_refused_before_training(pipelines, tmp_path):
    def trainer(*settings, model=None, prompts=("a",)):
        config = refl.load_config(settings=["rewards=[{name: tiny}]", f"run.out={tmp_path}", *settings])
        return refl.Trainer(model or pipelines("sd"), prompts, config)

    with pytest.raises(ConfigError, match=r"images of 33 x 33 pixels: .* must be multiples of 2"):
        trainer("rollout.height=33")
    with pytest.raises(ConfigError, match=r"Cannot use model\.lora_targets=\['no_such_layer'\]: "):
        trainer("model.lora_targets=[no_such_layer]", "rollout.height=16")
    with pytest.raises(RewardError, match="reward 'no-reward'"):
        trainer("rewards=[{name: no-reward}]", "rollout.height=16")
    with pytest.raises(ModelError, match="it has no model_index"):
        trainer(model=tmp_path)
    with pytest.raises(PromptFileError):
        trainer(prompts=tmp_path / "none.txt")
    with pytest.raises(ConfigError, match="no prompts are given"):
        trainer(prompts="")
    (tmp_path / "empty").mkdir()
    with pytest.raises(PromptFileError, match=r"Cannot (use|load the dataset) '.*empty'"):
        trainer(f"loss.pretraining_data={tmp_path / 'empty'}", "rollout.height=16")
    with pytest.raises(ConfigError, match=r"Cannot use optimizer\.eight_bit: bitsandbytes is not installed"):
        trainer("optimizer.eight_bit=true", "rollout.height=16")
    with pytest.raises(
        ConfigError, match="Cannot sample with 2000 steps: this model supports at most 1000 with ddim"
    ):
        trainer("rollout.steps=2000", "rollout.height=16")
    with pytest.raises(ConfigError, match="Cannot sample with 2000 steps"):
        trainer("validation.steps=2000", "rollout.height=16")
    with pytest.raises(ConfigError, match=r"run.trackers='wandbx': unknown. Use any of .*tensorboard"):
        trainer("run.trackers=[wandbx]", "rollout.height=16")
    config = refl.load_config(settings=["rewards=[{name: tiny}]", "rollout.height=16"])
    with pytest.raises(ConfigError, match="the reward functions 'red': the settings' rewards are 'tiny'"):
        refl.Trainer(pipelines("sd"), ["a"], config, {"red": lambda pixels, prompts: pixels.mean((1, 2, 3))})


def test_names_and_paths_are_checked_before_a_model_is_loaded(tmp_path):
    """The model is on a hub that would have to be asked for it."""
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red circle\n")

    def trainer(*settings, file=prompts):
        config = refl.load_config(settings=["model.id=someone/absent", f"run.out={tmp_path}", *settings])
        return refl.Trainer(None, file, config)

    with pytest.raises(RewardError, match=r"Cannot load the reward 'clipp'.*Did you mean 'CLIP'"):
        trainer("rewards=[{name: clipp}]")
    with pytest.raises(PromptFileError):
        trainer(file=tmp_path / "none.txt")
    with pytest.raises(ModelError, match="no such folder or file"):
        trainer("model.id=./no/such/folder")
    with pytest.raises(ConfigError, match="it is a file"):
        trainer(f"run.out={prompts}")


UNREACHABLE_HUB = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0"}


MISTAKES = {
    "Cannot load the reward 'no-reward'": ["--reward", "no-reward"],
    "Did you mean 'rollout.steps'": ["--set", "steps=3"],
    "Cannot read prompts from 'none.txt'": ["--prompts", "none.txt"],
    "Cannot load the model './none'": ["--model", "./none"],
    "it has no model_index.json": ["--model", os.path.dirname(__file__)],
    "Cannot load 'someone/absent': it is neither": ["--model", "someone/absent"],
    "Cannot load the reward 'someone/absent': ": ["--model", __file__, "--reward", "someone/absent"],
    "Cannot load the reward 'ImageReward-v1.0': ": ["--model", __file__, "--reward", "ImageReward-v1.0"],
}
MISTAKEN = """
import contextlib, io, json, sys
from refl.cli import main

for arguments in json.loads(sys.argv[1]):
    with contextlib.redirect_stderr(io.StringIO()) as printed:
        assert main(arguments) == 2
    assert "torch" not in sys.modules, arguments
    print(json.dumps(printed.getvalue()))
"""


def test_mistakes_on_the_command_line_are_reported_before_torch_loads(tmp_path):
    (tmp_path / "prompts.txt").write_text("a red circle\n")
    arguments = [["train", "--prompts", str(tmp_path / "prompts.txt"), *more] for more in MISTAKES.values()]
    done = subprocess.run(
        [sys.executable, "-c", MISTAKEN, json.dumps(arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": ":".join(sys.path), **UNREACHABLE_HUB, "HF_HOME": str(tmp_path)},
    )
    assert (done.returncode, done.stderr) == (0, "")
    printed = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(printed) == len(MISTAKES)
    for message, text in zip(MISTAKES, printed):
        assert message in text
        assert len(text.splitlines()) == 1


@pytest.mark.slow
def test_models_are_looked_up_on_the_hub_before_torch_loads(tmp_path):
    (tmp_path / "prompts.txt").write_text("a red circle\n")
    hub = Hub()
    hub.repos = {
        "a/pipeline": {"main": {"model_index.json": b'{"unet": ["diffusers", "UNet2DConditionModel"]}'}},
        "a/dataset": {"main": {"README.md": b""}},
    }
    missing = (
        ("a/absent", "tiny", "model_index.json of a/absent"),
        ("a/dataset", "tiny", "model_index.json of a/dataset"),
        ("a/pipeline", "a/dataset", "Cannot load the reward 'a/dataset': "),
    )
    arguments = [
        ["train", "--prompts", str(tmp_path / "prompts.txt"), "--model", model, "--reward", reward]
        for model, reward, _ in missing
    ]
    online = f"import sys; from refl.cli import main; assert [main(a) for a in {arguments}] == [2, 2, 2]; "
    # The cache has the pipeline's model_index.json by now, but not its UNet.
    offline = "from huggingface_hub import constants; constants.ENDPOINT = 'http://127.0.0.1:9'; "
    offline += f"main({[*arguments[2][:-1], 'tiny']}); assert 'torch' not in sys.modules"
    settings = {"HF_ENDPOINT": hub.address, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path)}
    try:
        done = subprocess.run(
            [sys.executable, "-c", online + offline],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": ":".join(sys.path), **settings},
        )
    finally:
        hub.stop()
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert all(message in line for (_, _, message), line in zip(missing, lines)), done.stderr
    assert "Cannot load 'a/pipeline': it is neither" in lines[3]


# The command


def test_train_dry_run_prints_settings_and_refuses_invalid_arguments(pipelines, tmp_path, capsys):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red circle\na blue square\n")
    arguments = ["train", "--model", str(pipelines("sd")), "--prompts", str(prompts), "--reward", "tiny",
                 "--watch", "tiny-judge", "--out", str(tmp_path / "run"),
                 "--set", "rollout.steps=8"]  # fmt: skip
    assert main([*arguments, "run.seed=7", "--dry-run", "run.batch_size=3"]) == 0
    output, progress = capsys.readouterr()
    assert progress.index("importing torch and diffusers") < progress.index("loading ")
    settings, _, rest = output.partition("\n\n")
    assert yaml.safe_load(settings)["rewards"][1] == {
        "name": "tiny-judge",
        "weight": 0.0,
        "phi": "relu",
        "target": 2.0,
        "dtype": "",
        "input": "",
    }
    run = yaml.safe_load(settings)["run"]
    assert (run["seed"], run["batch_size"]) == (7, 3)
    assert rest.startswith("images: ")
    assert "one rollout: steps 0-" in rest
    assert "trained of" in rest
    assert "memory (estimate, not measured): " in rest
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    for more, message in (
        (["--preset", "sd16"], "Cannot use the preset 'sd16'"),
        (["--set", "run.step=3"], "Did you mean 'run.steps'"),
        (["--prompts", str(tmp_path / "none.txt")], "none.txt': No such file"),
        (["--model", str(tmp_path)], "it has no model_index.json"),
    ):
        assert main([*arguments, *more]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.slow
def test_watch_adds_to_the_rewards_of_a_config_file(pipelines, tmp_path, capsys):
    prompts, config = tmp_path / "prompts.txt", tmp_path / "run.yaml"
    prompts.write_text("a red circle\na blue square\n")
    config.write_text(
        "rewards: [{name: tiny, weight: 0.5, phi: linear}]\nrollout: {steps: 8}\n"
        "validation: {stop_reward: tiny-judge}\n"
    )
    arguments = ["train", "--model", str(pipelines("sd")), "--prompts", str(prompts), "--config", str(config),
                 "--out", str(tmp_path / "run"), "--dry-run", "--watch", "tiny-judge"]  # fmt: skip
    for more in ([], ["--watch", "tiny-judge"], ["--set", "rewards=[{name: tiny, weight: 0.5}]"]):
        assert main([*arguments, *more]) == 0
        settings = yaml.safe_load(capsys.readouterr().out.partition("\n\n")[0])
        assert [(r["name"], r["weight"]) for r in settings["rewards"]] == [("tiny", 0.5), ("tiny-judge", 0.0)]
    assert main([*arguments, "--watch", "tiny"]) == 2  # trained on already
    assert "names must be unique" in capsys.readouterr().err


@pytest.mark.slow
def test_downloaded_prompts_must_match_the_checksum(tmp_path):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            body = b'[{"text": "another file"}]'
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    out = tmp_path / "refl_data.json"
    address = f"http://127.0.0.1:{server.server_port}/refl_data.json"
    done = subprocess.run(
        [sys.executable, "-m", "refl", "download-prompts", "--out", str(out), "--address", address],
        capture_output=True,
        text=True,
        env={**__import__("os").environ, "PYTHONPATH": ":".join(sys.path)},
    )
    server.shutdown()
    assert done.returncode == 2
    assert "sha256" in done.stderr
    assert not out.exists()
