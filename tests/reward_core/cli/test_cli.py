"""The console command: what it prints, what it writes and how it ends."""

import csv
import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

import reward_core as RM

PROMPT = "a red house by the ocean"
NAMES = ["rgb.png", "cmyk.jpg", "onebit.png", "gray_64x93.png"]
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def images(parity) -> list[str]:
    return [str(parity / "images" / name) for name in NAMES]


@pytest.fixture(scope="module")
def measured(folder, tmp_path_factory) -> Path:
    """The folder of a model that knows how its scores are distributed."""
    path = tmp_path_factory.mktemp("measured") / "model"
    shutil.copytree(folder, path)
    config = json.loads((path / "config.json").read_text())
    config["score_quantiles"] = {"values": [-1.0, 0.0, 1.0, 2.0], "source": "four images"}
    (path / "config.json").write_text(json.dumps(config))
    return path


# rank


def test_rank_prints_a_table_best_first(command, model, folder, images):
    done = command("rank", PROMPT, *images, "--model", folder)
    ranks, rewards = model.inference_rank(PROMPT, images)
    assert (done.returncode, done.stderr) == (0, "")
    rows = [line.split("│") for line in done.stdout.splitlines() if line.startswith("│")]
    shown = [[cell.strip() for cell in row[1:-1]] for row in rows]
    expected = sorted(zip(ranks, images, rewards))
    assert shown == [[str(rank), image, f"{reward:.4f}"] for rank, image, reward in expected]
    assert PROMPT in done.stdout
    assert "percentile" not in done.stdout


def test_rank_keeps_paths_whole_in_80_columns(command, measured, images, tmp_path):
    copies = [shutil.copy(image, tmp_path / f"{'long-name-' * 8}{i}.png") for i, image in enumerate(images)]
    narrow = command("rank", PROMPT, *copies, "--model", measured, width=80)
    assert narrow.returncode == 0
    lines = narrow.stdout.splitlines()
    assert {line.removeprefix("  image: ").strip() for line in lines if ".png" in line} == set(
        map(str, copies)
    )
    assert max(len(line) for line in lines if ".png" not in line) <= 80


@pytest.mark.parametrize("width", [40, 80])
def test_the_list_of_models_fits_narrow_terminals(command, width):
    done = command("models", width=width)
    assert max(map(len, done.stdout.splitlines())) <= width


def test_rank_shows_the_best_images_of_a_folder(command, model, folder, images, tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    (pictures / "notes.txt").write_text("no image")
    copies = sorted(shutil.copy(image, pictures) for image in images[1:])
    done = command("rank", PROMPT, images[0], pictures, "--model", folder, "--json", "--top", "2")
    every = [images[0], *map(str, copies)]
    ranks, _ = model.inference_rank(PROMPT, every)
    best = [image for _, image in sorted(zip(ranks, every))][:2]
    assert [result["image"] for result in json.loads(done.stdout)["results"]] == best
    assert done.returncode == 0


def test_rank_reports_a_folder_without_images_and_ranks_the_others_once(command, folder, images, tmp_path):
    empty, pictures = tmp_path / "empty", tmp_path / "pictures"
    empty.mkdir()
    pictures.mkdir()
    copy = shutil.copy(images[0], pictures)
    done = command("rank", PROMPT, empty, copy, pictures, "--model", folder, "--json")
    assert done.returncode == 1
    assert f"{empty}: this is a folder; give the images in it" in done.stderr
    assert [result["image"] for result in json.loads(done.stdout)["results"]] == [str(copy)]


def test_rank_shows_percentiles_and_where_they_come_from(command, measured, images):
    done = command("rank", PROMPT, *images, "--model", measured)
    results = json.loads(command("rank", PROMPT, *images, "--model", measured, "--json").stdout)["results"]
    lines = [line for line in done.stdout.splitlines() if line.startswith("│")]
    for line, result in zip(lines, results, strict=True):
        assert line.split("│")[4].strip() == f"{result['percentile']:.0f}"
    assert "percentile: four images" in done.stdout


@pytest.mark.slow
def test_rank_json_is_one_document_and_nothing_else(run, model, folder, images):
    done = run("rank", PROMPT, *images, "--model", folder, "--json")
    ranks, rewards = model.inference_rank(PROMPT, images)
    assert (done.returncode, done.stderr) == (0, "")
    results = [
        {"place": rank, "image": image, "score": reward, "percentile": None}
        for rank, image, reward in sorted(zip(ranks, images, rewards))
    ]
    document = json.loads(done.stdout)
    for result, expected in zip(document["results"], results, strict=True):
        assert result["score"] == pytest.approx(expected["score"], abs=5e-5)
        expected["score"] = result["score"]
    assert document == {"model": str(folder), "prompt": PROMPT, "results": results, "failed": []}


def test_rank_json_has_percentiles_where_the_model_knows_them(command, measured, images):
    done = command("rank", PROMPT, *images, "--model", measured, "--json")
    known = RM.load(measured, device="cpu")
    for result in json.loads(done.stdout)["results"]:
        assert result["percentile"] == known.percentile(result["score"])
        assert 0 <= result["percentile"] <= 100


def test_ties_keep_the_order_of_the_arguments(command, folder, images, tmp_path):
    copies = [
        str(shutil.copy(images[i], tmp_path / name)) for i, name in ((0, "z.png"), (0, "a.png"), (0, "m.png"))
    ]
    done = command("rank", PROMPT, *copies, "--model", folder, "--json", "--batch-size", 1)
    results = json.loads(done.stdout)["results"]
    assert len({result["score"] for result in results}) == 1
    assert [(result["place"], result["image"]) for result in results] == list(enumerate(copies, start=1))


def test_brackets_and_colons_are_shown_unchanged(command, folder, images, tmp_path):
    image = shutil.copy(images[0], tmp_path / "a[bold]b[1].png")
    done = command("rank", "a [red] house [/] :cat:", image, "--model", folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert "a[bold]b[1].png" in done.stdout
    assert "a [red] house [/] :cat:" in done.stdout


def test_a_failed_image_is_named_and_the_others_are_ranked(command, model, folder, images, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_text("no image")
    done = command(
        "rank", PROMPT, images[0], bad, images[1], tmp_path / "none.png", "--model", folder, "--json"
    )
    document = json.loads(done.stdout)
    assert done.returncode == 1
    assert [failed["image"] for failed in document["failed"]] == [str(bad), str(tmp_path / "none.png")]
    assert document["failed"][1]["error"] == "no such file"
    assert len(done.stderr.splitlines()) == 2
    for failed in document["failed"]:
        assert f"reward-core: {failed['image']}: {failed['error']}\n" in done.stderr
    scores = {result["image"]: result["score"] for result in document["results"]}
    expected = model.score(PROMPT, images[:2])
    assert [scores[image] for image in images[:2]] == pytest.approx(expected, abs=5e-5)

    done = command("rank", PROMPT, bad, "--model", folder)
    assert (done.returncode, done.stdout) == (1, "")


# score


def read_rows(path: Path) -> list[dict]:
    if path.suffix == ".json":
        return json.loads(path.read_text(encoding="utf-8"))
    if path.suffix == ".parquet":
        return pytest.importorskip("pyarrow.parquet").read_table(path).to_pylist()
    with path.open(newline="", encoding="utf-8") as file:
        return [
            {
                **row,
                "row": int(row["row"]),
                "score": float(row["score"]) if row["score"] else None,
                "error": row["error"] or None,
            }
            for row in csv.DictReader(file)
        ]


PAIRS = [
    ("a red house", "rgb.png"),
    ("a red house", "cmyk.jpg"),
    ('portrait, "naïve"\ncafé 東京', "onebit.png"),
    ("a red house", "none.png"),
]
MAPPING = {image: prompt for prompt, image in PAIRS}
RANKINGS = [
    {"id": "7", "prompt": "a red house", "generations": ["rgb.png", "cmyk.jpg"], "ranking": [2, 1]},
    {"id": "8", "prompt": PAIRS[2][0], "generations": ["onebit.png"], "ranking": [1]},
    {"id": "9", "prompt": "a red house", "generations": ["none.png"], "ranking": [1]},
]


@pytest.mark.parametrize("extension", [".csv", ".json", ".parquet"])
@pytest.mark.parametrize("form", [MAPPING, RANKINGS], ids=["mapping", "rankings"])
def test_score_writes_a_row_per_pair(command, model, folder, parity, tmp_path, form, extension):
    if extension == ".parquet":
        pytest.importorskip("pyarrow")
    prompts, out = tmp_path / "prompts.json", tmp_path / f"scores{extension}"
    prompts.write_text(json.dumps(form), encoding="utf-8")
    done = command(
        "score",
        "--prompts",
        prompts,
        "--images",
        parity / "images",
        "--out",
        out,
        "--model",
        folder,
        "--batch-size",
        2,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "none.png: no such file" in done.stderr
    rows = read_rows(out)
    assert [list(row) for row in rows] == [["row", "prompt", "image", "score", "error"]] * len(PAIRS)
    paths = [str(parity / "images" / image) for _, image in PAIRS]
    assert [(row["row"], row["prompt"], row["image"]) for row in rows] == [
        (i, prompt, path) for i, ((prompt, _), path) in enumerate(zip(PAIRS, paths))
    ]
    expected = model.score_pairs([prompt for prompt, _ in PAIRS[:3]], paths[:3], batch_size=2)
    assert [row["score"] for row in rows[:3]] == pytest.approx(expected.tolist(), abs=5e-5)
    assert [row["error"] for row in rows] == [None, None, None, "no such file"]
    assert rows[3]["score"] is None
    assert sorted(file.name for file in tmp_path.iterdir()) == ["prompts.json", out.name]  # no leftovers


@pytest.mark.parametrize("name", ["000904-0035", "a[0]*", 12], ids=str)
def test_score_finds_the_images_of_an_id(command, model, folder, parity, tmp_path, name):
    images = tmp_path / "pictures"
    images.mkdir()
    for x, source in ((10, "rgb.png"), (2, "gray_64x93.png"), (0, "rgba.png")):
        shutil.copy(parity / "images" / source, images / f"{name}_{x}.png")
    for other in ("other_0.png", f"{name}_1_0.png"):  # the second is image 0 of another id
        shutil.copy(parity / "images" / "rgb.png", images / other)
    prompts, out = tmp_path / "prompts.json", tmp_path / "scores.json"
    prompts.write_text(json.dumps([{"id": name, "prompt": PROMPT}, {"id": "absent", "prompt": "a dog"}]))
    done = command("score", "--prompts", prompts, "--images", images, "--out", out, "--model", folder)
    assert done.returncode == 0
    warning, output = done.stderr.strip().splitlines()
    assert "1 of 2 prompts have no image" in warning
    assert warning.endswith(": absent")
    assert output == f"3 scores in {out}"
    paths = [str(images / f"{name}_{x}.png") for x in (0, 2, 10)]
    rows = read_rows(out)
    assert [row["image"] for row in rows] == paths
    assert [row["score"] for row in rows] == pytest.approx(model.score(PROMPT, paths), abs=5e-5)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere file names are Unicode")
@pytest.mark.parametrize("extension", [".json", ".csv", ".parquet"])
def test_a_non_utf8_file_name_is_scored_and_written(run, folder, parity, tmp_path, extension):
    if extension == ".parquet":
        pytest.importorskip("pyarrow")
    name = os.fsdecode(b"caf\xe9.png")
    shutil.copy(parity / "images" / "rgb.png", tmp_path / name)
    done = run("rank", PROMPT, tmp_path / name, "--model", folder, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["results"][0]["image"] == str(tmp_path / name)
    prompts, out = tmp_path / "prompts.json", tmp_path / f"scores{extension}"
    prompts.write_text(json.dumps({name: PROMPT}))
    done = run("score", "--prompts", prompts, "--images", tmp_path, "--out", out, "--model", folder)
    assert done.returncode == 0
    shown = str(tmp_path / name) if extension == ".json" else str(tmp_path / r"caf\udce9.png")
    assert [row["image"] for row in read_rows(out)] == [shown]


def test_score_does_not_replace_its_prompts(command, folder, parity, tmp_path):
    prompts = tmp_path / "prompts.json"
    prompts.write_text(json.dumps({"rgb.png": PROMPT}))
    before = prompts.read_text()
    done = command(
        "score", "--prompts", prompts, "--images", parity / "images", "--out", prompts, "--model", folder
    )
    assert done.returncode == 2
    assert f"Cannot write '{prompts}': it is the file of --prompts" in done.stderr
    assert prompts.read_text() == before


def test_score_replaces_an_older_file(command, folder, parity, tmp_path):
    prompts, out = tmp_path / "prompts.json", tmp_path / "scores.csv"
    prompts.write_text(json.dumps({"rgb.png": PROMPT}))
    out.write_text("older and longer\n" * 100)
    done = command(
        "score", "--prompts", prompts, "--images", parity / "images", "--out", out, "--model", folder
    )
    assert done.returncode == 0
    assert [row["row"] for row in read_rows(out)] == [0]


# Wrong usage


WRONG_PROMPTS = {
    "not JSON": ("{", "as JSON: "),
    "not text": (b"\xff\xfe{}", "as JSON: "),
    "a number": ("3", "expected a JSON object or list"),
    "empty list": ("[]", "no prompt has an image"),
    "empty object": ("{}", "no prompt has an image"),
    "prompt is a number": ('{"rgb.png": 3}', "rgb.png: the prompt must be a string"),
    "record without prompt": (
        '[{"prompt": "a dog", "generations": []}, {"id": "1"}]',
        "record 1 has no 'prompt'",
    ),
    "record is a string": ('["a dog"]', "record 0 has no 'prompt'"),
    "prompt of record is null": (
        '[{"prompt": null, "generations": []}]',
        "record 0: the prompt must be a string",
    ),
    "neither id nor generations": ('[{"prompt": "a dog"}]', "neither 'generations' nor an 'id'"),
    "id is a list": ('[{"prompt": "a dog", "id": []}]', "neither 'generations' nor an 'id'"),
    "id is an absolute path": ('[{"prompt": "a dog", "id": "/etc/x"}]', "neither 'generations' nor an 'id'"),
    "generations is a string": (
        '[{"prompt": "a dog", "generations": "rgb.png"}]',
        "must be a list of file names",
    ),
    "no image of any id": ('[{"prompt": "a dog", "id": "absent"}]', "no prompt has an image"),
    "half a character": ('{"rgb.png": "a \\ud83d dog"}', "half a character"),
}


@pytest.mark.parametrize("kind", WRONG_PROMPTS)
def test_a_wrong_prompts_file_is_named_and_nothing_is_written(command, folder, parity, tmp_path, kind):
    content, reason = WRONG_PROMPTS[kind]
    prompts, out = tmp_path / "prompts.json", tmp_path / "scores.csv"
    prompts.write_bytes(content.encode() if isinstance(content, str) else content)
    done = command(
        "score", "--prompts", prompts, "--images", parity / "images", "--out", out, "--model", folder
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert reason in done.stderr
    assert os.listdir(tmp_path) == ["prompts.json"]


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"--prompts": "none.json"}, "Cannot read prompts from "),
        ({"--images": "none"}, "none': no such folder"),
        ({"--out": "scores.xlsx"}, "scores.xlsx': the extension must be .csv or .json or .jsonl or .parquet"),
        ({"--out": "scores"}, "the extension must be "),
        ({"--out": "none/scores.csv"}, "it is a folder, or its folder does not exist"),
        ({"--out": "folder.csv"}, "it is a folder, or its folder does not exist"),
        (
            {"--model": "no-such-model"},
            "'no-such-model' is neither a known name",
        ),
        ({"--model": "none.pt"}, "'none.pt' is neither"),
        ({"--device": "toaster"}, "Cannot use device 'toaster'"),
        ({"--batch-size": "0"}, "--batch-size: must be a whole number of at least 1, got '0'"),
        ({"--batch-size": "two"}, "--batch-size: must be a whole number of at least 1, got 'two'"),
    ],
    ids=str,
)
def test_wrong_arguments_are_named_and_nothing_is_written(
    command, folder, parity, tmp_path, monkeypatch, changed, reason
):
    monkeypatch.chdir(tmp_path)
    Path("prompts.json").write_text(json.dumps({"rgb.png": PROMPT}))
    Path("folder.csv").mkdir()
    right = {
        "--prompts": "prompts.json",
        "--images": parity / "images",
        "--out": "scores.csv",
        "--model": folder,
    }
    done = command("score", *(word for option in (right | changed).items() for word in option))
    assert (done.returncode, done.stdout) == (2, "")
    assert reason in done.stderr
    assert sorted(os.listdir()) == ["folder.csv", "prompts.json"]
    if "--model" in changed or "--device" in changed or "--batch-size" in changed:
        words = (word for option in changed.items() for word in option)
        done = command("rank", PROMPT, parity / "images" / "rgb.png", "--json", "--model", folder, *words)
        assert (done.returncode, done.stdout) == (2, "")
        assert reason in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [(), ("rank",), ("rank", PROMPT), ("score",), ("convert",), ("paint",), ("models", "tiny")],
    ids=str,
)
def test_incomplete_commands_are_usage_errors(command, arguments):
    done = command(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: ")


@pytest.mark.slow
def test_an_unavailable_model_offline_is_one_clear_error(run, images, tmp_path):
    done = run("rank", PROMPT, *images, env={"HF_HOME": str(tmp_path)})
    assert (done.returncode, done.stdout) == (2, "")
    assert "ImageReward.pt" in done.stderr
    assert "`hf download zai-org/ImageReward ImageReward.pt`" in done.stderr
    assert "Traceback" not in done.stderr


# models, help


def test_models_lists_every_name(command):
    done = command("models")
    assert (done.returncode, done.stderr) == (0, "")
    for name in RM.available_models() + RM.available_scores():
        assert f" {name} " in done.stdout


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("rank", ["PROMPT", "IMAGE", "--json", "--model", "--device", "--batch-size"]),
        ("score", ["--prompts", "--images", "--out", "--model", "--device", "--batch-size"]),
        ("models", []),
        ("convert", ["STATE_DICT", "OUT_FOLDER", "--config", "--vocab"]),
        ("example", ["--images", "--model"]),
    ],
)
def test_every_command_explains_itself(command, name, flags):
    done = command(name, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: reward-core {name}")
    for flag in flags:
        assert flag in done.stdout
    assert f"\n    {name} " in command("--help").stdout


@pytest.mark.parametrize("arguments", [["--help"], ["models"], ["score", "--help"], ["no-such-command"]])
def test_a_closed_pipe_ends_a_command_without_a_traceback(arguments):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-m", "reward_core", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        process.stdout.close()
        stderr = process.stderr.read()
    assert process.returncode in ((2,) if "no-such-command" in arguments else (0, 141))
    assert "Traceback" not in stderr
    assert "BrokenPipe" not in stderr


def test_version(command):
    assert command("--version").stdout == f"reward-core {RM.__version__}\n"


# convert


def scores(model, images) -> list[float]:
    return model.score(PROMPT, images)


@pytest.fixture
def bare(parity, tmp_path) -> Path:
    """The state dict alone in its folder, as it is downloaded."""
    return Path(shutil.copy(parity / "state_dict.pt", tmp_path / "ImageReward.pt"))


@pytest.mark.parametrize("method", ["command", pytest.param("tool", marks=pytest.mark.slow), "files beside"])
def test_convert_gives_a_folder_that_loads_offline(command, model, parity, images, bare, tmp_path, method):
    out = tmp_path / "folder"
    sizes = ["--config", parity / "config.json", "--vocab", parity / "vocab.txt"]
    if method == "tool":
        tool = [sys.executable, ROOT / "tools" / "convert_checkpoint.py", bare, out, *sizes]
        done = subprocess.run(list(map(str, tool)), capture_output=True, text=True)
    elif method == "command":
        done = command("convert", bare, out, *sizes)
    else:
        done = command("convert", parity / "state_dict.pt", out)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"RM.load({str(out)!r})" in done.stdout
    bare.unlink()
    moved = out.rename(tmp_path / "elsewhere")
    loaded = RM.load(moved, device="cpu", local_files_only=True)
    assert scores(loaded, images) == scores(model, images)


def is_encoder(key: str) -> bool:
    return key.startswith("blip.") and not key.endswith("position_ids")


def as_blip_publishes_it(state: dict) -> dict:
    """ImageReward's state dict -> the form of BLIP's pre-training file."""
    encoders = {key[len("blip.") :]: value for key, value in state.items() if key.startswith("blip.")}
    momentum = {key.replace(".", "_m.", 1): value + 1 for key, value in encoders.items()}
    rest = {
        "text_decoder.bert.embeddings.word_embeddings.weight": torch.zeros(3, 2),
        "text_decoder.cls.predictions.bias": torch.zeros(3),
        "itm_head.weight": torch.zeros(2, 4),
        "itm_head.bias": torch.zeros(2),
        "image_queue": torch.zeros(4, 6),
        "text_queue": torch.zeros(4, 6),
        "queue_ptr": torch.zeros(1, dtype=torch.int64),
        "temp": torch.tensor(0.07),
    }
    return {**encoders, **momentum, **rest}


def test_convert_takes_blip_as_it_is_published(command, parity, tmp_path):
    state = torch.load(parity / "state_dict.pt", weights_only=True)
    torch.save({"model": as_blip_publishes_it(state), "epoch": 20}, tmp_path / "model_large.pth")
    config = json.loads((parity / "config.json").read_text())
    sizes = {k: v for k, v in config.items() if not k.startswith("reward_")}
    (tmp_path / "sizes.json").write_text(json.dumps(sizes))
    out = tmp_path / "blip"
    done = command(
        "convert",
        tmp_path / "model_large.pth",
        out,
        "--config",
        tmp_path / "sizes.json",
        "--vocab",
        parity / "vocab.txt",
    )
    assert (done.returncode, done.stderr) == (0, "")
    parameters = sum(value.numel() for key, value in state.items() if is_encoder(key))
    assert f"BlipScorer, {parameters:,} parameters" in done.stdout
    assert f"RM.load({str(out)!r})" in done.stdout
    scorer = RM.load_score(out, device="cpu", local_files_only=True)
    expected = json.loads((parity / "expected.json").read_text())
    for pair in expected["pairs"][:12]:
        prompt = expected["prompts"][pair["prompt"]]["text"]
        image = parity / expected["images"][pair["image"]]["file"]
        assert scorer.score(prompt, image) == pytest.approx(pair["blip_cosine"], abs=2e-6)
    assert type(RM.load(out, device="cpu")) is type(scorer)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"state_dict": "none.pt"}, "none.pt': no such file"),
        ({"state_dict": "."}, "no such file"),
        ({"--config": "none.json"}, "none.json' as JSON: "),
        ({"--vocab": "none.txt"}, "Cannot read a vocabulary from "),
        ({"--vocab": "config.json"}, "config.json' as BERT vocabulary"),
        ({"--vocab": "longer.txt"}, "the model has 300 tokens, but its tokenizer has 301"),
        ({"--config": "larger.json"}, "its weights do not match the model"),
        ({"out": "longer.txt"}, "longer.txt"),
    ],
    ids=str,
)
def test_a_failed_conversion_is_explained_and_writes_nothing(
    command, parity, bare, tmp_path, monkeypatch, changed, reason
):
    monkeypatch.chdir(tmp_path)
    config = json.loads((parity / "config.json").read_text())
    Path("config.json").write_text(json.dumps(config))
    Path("larger.json").write_text(json.dumps({**config, "image_size": 64}))
    Path("longer.txt").write_text(
        (parity / "vocab.txt").read_text(encoding="utf-8") + "word\n", encoding="utf-8"
    )
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    right = {"state_dict": bare, "out": "folder", "--config": "config.json", "--vocab": parity / "vocab.txt"}
    given = right | changed
    options = (word for name in ("--config", "--vocab") for word in (name, given[name]))
    done = command("convert", given["state_dict"], given["out"], *options)
    assert (done.returncode, done.stdout) == (2, "")
    assert reason in done.stderr
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before


# Standard error


LONG = "a red house, " * 12 + "and a very long yellow light"


def test_a_long_prompt_is_one_warning_that_names_what_is_not_read(command, model, folder, images):
    dropped = model.tokenizer.dropped_words(LONG)
    assert dropped.endswith("a very long yellow light")
    done = command("rank", LONG, *images, "--model", folder, "--json", "--batch-size", 1)
    assert done.returncode == 0
    assert len(json.loads(done.stdout)["results"]) == len(images)
    (line,) = done.stderr.splitlines()
    assert line.startswith("reward-core: warning: ")
    assert repr(dropped) in line


def test_a_command_restores_the_warning_filters(command, folder, images):
    before = warnings.showwarning
    done = command("rank", "", images[0], "--model", folder)
    assert done.stderr.startswith("reward-core: warning: empty prompt")
    assert warnings.showwarning is before


def test_no_progress_bar_without_a_terminal(command, folder, parity, tmp_path):
    prompts, out = tmp_path / "prompts.json", tmp_path / "scores.csv"
    prompts.write_text(json.dumps({name: PROMPT for name in NAMES}))
    done = command(
        "score", "--prompts", prompts, "--images", parity / "images", "--out", out, "--model", folder
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", f"4 scores in {out}\n")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals are POSIX's")
def test_a_progress_bar_on_a_terminal_leaves_stdout_clean(folder, images):
    import pty

    controller, terminal = pty.openpty()
    arguments = ["rank", PROMPT, *images, "--json", "--model", str(folder)]
    process = subprocess.Popen(
        [sys.executable, "-m", "reward_core", *arguments],
        stdout=subprocess.PIPE,
        stderr=terminal,
        env={**os.environ, "TERM": "xterm", "HF_HUB_OFFLINE": "1"},
    )
    os.close(terminal)
    document = json.loads(process.communicate(timeout=300)[0])
    assert len(document["results"]) == len(images)
    assert b"scoring" in os.read(controller, 1 << 16)
    os.close(controller)


# The same command under its other names


@pytest.mark.slow
def test_the_installed_script_is_the_module(run, folder, images):
    script = shutil.which("reward-core", path=os.path.dirname(sys.executable))
    if script is None:
        pytest.skip("reward-core is not installed beside this Python")
    arguments = ["rank", PROMPT, *images, "--json", "--model", str(folder)]
    # As many threads as `run` has: another number of them rounds otherwise.
    settings = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([script, *arguments], capture_output=True, text=True, env=settings)
    module = run(*arguments)
    assert (done.returncode, done.stdout, done.stderr) == (module.returncode, module.stdout, module.stderr)
    assert done.returncode == 0


# example


def test_the_example_refuses_other_images(command, parity, tmp_path):
    for name in ("1.webp", "2.webp", "3.webp", "4.webp"):
        shutil.copy(parity / "images" / "rgb.png", tmp_path / name)
    done = command("example", "--images", tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{tmp_path / '1.webp'}: not the published example image" in done.stderr
    (tmp_path / "1.webp").unlink()
    done = command("example", "--images", tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{tmp_path / '1.webp'}: no such file" in done.stderr


def test_the_example_without_a_network_says_how_to_use_other_copies(command, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # refuses connections
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    done = command("example")
    assert done.returncode == 2
    assert done.stderr.endswith(". If you have the images, run `reward-core example --images FOLDER`.\n")


# names, prompts and reasons of others

HOSTILE = "\n\x1b]0;title\x07\x1b[31m\u202e\u200b[red][link=x]\x85\x7f:cat:"
HIDDEN = "\x1b\x07\x85\x7f\u202e\u200b"


@pytest.fixture
def hostile(parity, tmp_path):
    """Images in a folder, all with names of control characters and markup; one is not an image."""
    folder = tmp_path / f"d{HOSTILE}"
    folder.mkdir()
    names = [f"a{HOSTILE}.png", os.fsdecode(b"b\xff\x9b.png"), f"broken{HOSTILE}.png"]
    for name in names[:2]:
        shutil.copy(parity / "images" / "rgb.png", folder / name)
    (folder / names[2]).write_bytes(b"no image")
    (folder / names[0]).with_suffix(".txt").write_text(f"a cat{HOSTILE}".replace("\n", " "), encoding="utf-8")
    return folder


def check_shown(text):
    assert not set(HIDDEN) & set(text), repr(text)
    for line in text.splitlines():
        assert line.isprintable(), repr(line)
    text.encode()  # no lone surrogates


def test_names_and_prompts_are_printed_with_visible_escapes(command, folder, hostile, tmp_path):
    images = sorted(hostile.glob("*.png"))
    prompt, model = f"a house{HOSTILE}[/red][/b]", shutil.copytree(folder, tmp_path / f"m{HOSTILE}[" / "red]")
    done = command("rank", prompt, *images, "--model", model)
    assert done.returncode == 1
    check_shown(done.stdout + done.stderr)
    flat = done.stdout.replace("│\n", "").replace("│", "").replace("\n", "").replace(" ", "")
    assert r"\n\x1b]0;title\x07\x1b[31m\u202e\u200b[red][link=x]\x85\x7f:cat:" in flat
    assert r"\udcff" in flat
    for arguments in (
        ["rank", prompt, hostile / f"nope{HOSTILE}.png", "--model", model],
        ["rank", prompt, images[0], "--model", tmp_path / f"none{HOSTILE}"],
        ["rank", "x", images[0], f"--{HOSTILE}"],
        ["tag", *images, "--prompt", prompt, "--model", model],
        ["tag", images[0], "--prompt-from-metadata", "--key", "k", "--model", model],
        ["sort", hostile, "--into", f"x{HOSTILE},y", "--top", "1"],
        ["sort", hostile, "--into", f"x{HOSTILE},y", "--top", "1", "--copy"],
        ["score", "--folder", hostile, "--out", tmp_path / f"s{HOSTILE}.csv", "--model", model],
        ["score", "--manifest", tmp_path / f"m{HOSTILE}.csv", "--out", tmp_path / "s.csv"],
        ["evaluate", model, "--data", tmp_path / f"r{HOSTILE}.json"],
        ["prepare", "pairs", tmp_path / f"r{HOSTILE}.json", "--out", tmp_path / f"p{HOSTILE}"],
        ["convert", tmp_path / f"c{HOSTILE}.pt", tmp_path / f"o{HOSTILE}"],
        ["train", "--data", tmp_path / f"t{HOSTILE}", "--out", tmp_path / f"u{HOSTILE}"],
    ):
        done = command(*arguments)
        check_shown(done.stdout + done.stderr)
        assert "Traceback" not in done.stderr


def test_json_keeps_names_exactly(command, folder, hostile):
    images = sorted(hostile.glob("*.png"))
    document = json.loads(command("rank", HOSTILE, *images, "--model", folder, "--json").stdout)
    shown = {result["image"] for result in document["results"] + document["failed"]}
    assert shown == set(map(str, images))
    assert document["prompt"] == HOSTILE


def test_progress_bars_show_names_as_they_are(capsys, monkeypatch):
    from reward_core.runs.progress import progress

    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then takes stderr for a terminal
    monkeypatch.setenv("COLUMNS", "200")
    assert list(progress("ab", "unpacking [/red]\x1b]0;t\x07\u202e", 2)) == ["a", "b"]
    text = capsys.readouterr().err
    assert r"unpacking [/red]\x1b]0;t\x07\u202e" in text
    assert "\x1b]0" not in text
    assert "\u202e" not in text
