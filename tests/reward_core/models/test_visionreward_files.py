"""VisionReward's files: local copies, the pieces of a tar from a hub, the conversion, the questions."""

import hashlib
import json
import os
import random
import re
import shutil
from pathlib import Path

import pytest
import torch
from hub_server import Hub, commit_of
from safetensors.torch import load_file, save_file

import reward_core as RM
from reward_core.errors import CheckpointError, HubError, InputError, KeyMismatchError
from reward_core.files.joined_files import JoinedFiles, pieces_of
from reward_core.models.visionreward.checklist import published_structure
from reward_core.models.visionreward.checklist_score import checklist_score

PARITY = Path(__file__).parents[2] / "data" / "parity_visionreward"
TOOLS = Path(__file__).parents[3] / "tools"
QUESTIONS = "VisionReward_image_qa_select.txt"


def pictures():
    return sorted((PARITY / "pictures").glob("*.png"))


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """A folder with the weights that the authors' program was run with, and 30 questions."""
    folder = tmp_path_factory.mktemp("reference")
    (folder / "checklist").mkdir()
    parts = [load_file(path) for path in sorted((PARITY / "checklist").glob("weights_sat_*.safetensors"))]
    save_file({k: v for part in parts for k, v in part.items()}, folder / "checklist/weights_sat.safetensors")
    shutil.copy(PARITY / "checklist" / "config_sat.json", folder / "checklist")
    shutil.copytree(PARITY / "alignment", folder / "alignment")
    shutil.copytree(PARITY / "tokenizer", folder / "tokenizer")
    asked = [pair["question"] for pair in json.loads((PARITY / "checklist/pairs.json").read_text())["pairs"]]
    texts = list(dict.fromkeys(asked))
    texts += [f"Is it number {i}?" for i in range(30 - len(texts))]
    (folder / QUESTIONS).write_text("\n".join(texts))
    return folder


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The files of tools/make_tiny_checkpoint.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(TOOLS))
        from make_tiny_checkpoint import make_tiny_checkpoint

        folder = tmp_path_factory.mktemp("tiny")
        make_tiny_checkpoint("VisionReward", folder)
    return folder


@pytest.fixture(scope="module")
def model(reference):
    return RM.load("VisionReward", device="cpu", files=reference, local_files_only=True)


def test_a_folder_with_the_reference_weights_answers_and_scores_like_the_authors(model):
    pairs = json.loads((PARITY / "checklist" / "pairs.json").read_text())["pairs"]
    for pair in pairs:
        image = PARITY / "pictures" / f"{pair['picture']}.png"
        assert model.answers(image, [pair["question"]]) == [pair["counts_as_yes"]]
    found = json.loads((PARITY / "alignment" / "pairs.json").read_text())["pairs"][0]
    image = PARITY / "pictures" / f"{found['picture']}.png"
    expected = checklist_score(model.answers(image), found["score"])
    assert model.score(found["caption"], image) == pytest.approx(expected, abs=2e-5)
    assert model.explain(found["caption"], image).alignment == pytest.approx(found["score"], abs=3e-6)


@pytest.mark.slow
def test_an_image_is_asked_once_for_all_prompts_and_scores_do_not_depend_on_batches(model):
    network = model.vlm.network
    before = network.prefix_passes
    matrix = model.score_matrix(["three boxes", "a red car"], pictures())
    assert network.prefix_passes - before == len(pictures())
    answers = model.answers(pictures())
    assert len({tuple(row) for row in answers}) > 2
    assert [model.answers(path) for path in pictures()] == answers
    for prompt, row in zip(["three boxes", "a red car"], matrix):
        alone = [model.score(prompt, path) for path in pictures()]
        assert row.tolist() == pytest.approx(alone, abs=1e-4)
        pairs = model.score_pairs([prompt] * len(pictures()), pictures(), batch_size=4)
        assert row.tolist() == pytest.approx(pairs.tolist(), abs=1e-4)
        aligned = model.alignment.score(prompt, pictures())
        expected = [checklist_score(*pair, model.checklist) for pair in zip(answers, aligned)]
        assert row.tolist() == pytest.approx(expected, abs=1e-4)


def test_int8_weights_score_about_as_exact_and_are_noticed_when_they_change(reference, model):
    pytest.importorskip("torchao")
    small = RM.load("VisionReward", device="cpu", files=reference, local_files_only=True, precision="int8")
    features = small.encode_images(pictures()[:1])
    assert small.score("a red car", pictures()[0]) == pytest.approx(
        model.score("a red car", pictures()[0]), abs=1.0
    )
    layer = next(m for m in small.vlm.network.modules() if isinstance(m, torch.nn.Linear))
    layer.weight.qdata.add_(1)
    with pytest.raises(InputError, match="features of another model"):
        small.explain("a red car", features)


def test_a_checklist_file_replaces_the_list(reference, tmp_path):
    for name in ("checklist", "alignment", "tokenizer"):
        (tmp_path / name).symlink_to(reference / name)
    content = published_structure().to_dict()
    content |= {"questions": [{"text": "Is it red?", "weight": 2.0}], "alignment_weight": 0.0}
    (tmp_path / "checklist.json").write_text(json.dumps(content))
    model = RM.load("VisionReward", device="cpu", files=tmp_path, local_files_only=True)
    answers = model.answers(pictures())
    assert model.score("any", pictures()) == [2.0 if answer else -2.0 for [answer] in answers]


def test_a_gradient_flows_from_the_expected_score_to_the_pixels(model):
    coarse = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    image = (0.1 + 0.8 * torch.nn.functional.interpolate(coarse, (60, 70))).requires_grad_()
    score = model.rewards_from_pixels(image, ["three boxes"])
    score.backward()
    step = 0.03 * image.grad / image.grad.abs().max()  # of several levels, because pixels are rounded
    with torch.no_grad():
        change = model.rewards_from_pixels(image + step, ["three boxes"]) - score
    assert score.shape == (1,)
    assert change.item() > 0


# Pieces


def test_joined_files_are_read_as_one(tmp_path):
    content = random.Random(0).randbytes(1000)
    for i, cut in enumerate(((0, 1), (1, 400), (400, 400), (400, 1000))):
        (tmp_path / f"part_a{'abcd'[i]}").write_bytes(content[slice(*cut)])
    paths = pieces_of(tmp_path / "part_ac")
    joined = JoinedFiles(paths)
    assert joined.readall() == content
    part = joined.range(3, 900)
    assert part.seek(390) == 390
    assert part.read(20) == content[393:413]
    assert part.seek(-5, os.SEEK_END) == 895
    assert part.read() == content[898:903]
    (tmp_path / "part_ab").unlink()
    with pytest.raises(FileNotFoundError, match="part_ab"):
        pieces_of(tmp_path / "part_aa")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: p.with_name("split_part_ab").unlink(), "the piece split_part_ab is missing"),
        (lambda p: p.with_name("split_part_ac").unlink(), "2 pieces are not a complete tar"),
        (lambda p: p.write_bytes(b"x" * 2000), "3 pieces are not a complete tar"),
    ],
)
def test_missing_and_damaged_pieces_are_errors(tiny, tmp_path, damage, message):
    shutil.copytree(tiny, tmp_path / "files")
    damage(tmp_path / "files" / "checklist" / "split_part_aa")
    with pytest.raises(CheckpointError, match=message):
        RM.load("VisionReward", device="cpu", files=tmp_path / "files", local_files_only=True)


@pytest.mark.parametrize("form", ["sat folder", "transformers"])
def test_other_published_forms_give_the_same_model(model, reference, tmp_path, form):
    shutil.copytree(reference, tmp_path / "files")
    folder = tmp_path / "files" / "checklist"
    state = load_file(folder / "weights_sat.safetensors")
    for path in folder.iterdir():
        path.unlink()
    if form == "sat folder":
        shutil.copy(PARITY / "checklist" / "config_sat.json", folder / "model_config.json")
        (folder / "1").mkdir()
        torch.save({"module": state, "args": Path("x")}, folder / "1" / "mp_rank_00_model_states.pt")
    else:
        names = json.loads((PARITY / "checklist" / "keymap_sat_to_hf.json").read_text())
        frequencies = state.pop("mixins.rotary.rotary_emb.inv_freq")
        renamed = {names[key]: value for key, value in state.items()}
        for i in range(3):
            renamed[f"model.layers.{i}.self_attn.rotary_emb.inv_freq"] = frequencies.clone()
        save_file(renamed, folder / "model.safetensors")
        shutil.copy(PARITY / "checklist" / "config_hf.json", folder / "config.json")
    other = RM.load("VisionReward", device="cpu", files=tmp_path / "files", local_files_only=True)
    pairs = zip(model.vlm.network.parameters(), other.vlm.network.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_keys_are_strict(reference, tmp_path):
    shutil.copytree(reference, tmp_path / "files")
    path = tmp_path / "files" / "checklist" / "weights_sat.safetensors"
    state = load_file(path)
    state["mixins.eva.boj"] = state.pop("mixins.eva.eoi")
    save_file(state, path)
    with pytest.raises(KeyMismatchError) as caught:
        RM.load("VisionReward", device="cpu", files=tmp_path / "files", local_files_only=True)
    assert caught.value.missing == ["mixins.eva.eoi"]
    assert caught.value.unexpected == ["mixins.eva.boj"]


# By name

SPEC = """
from dataclasses import replace
from reward_core.hub.file_specs import WebFile
from reward_core.models.registry import BUILT_IN

KNOWN = BUILT_IN["VisionReward"]
FILE = WebFile({url!r}, "questions.txt", {digest!r})
PARTS = {{**KNOWN.parts, "checklist": replace(KNOWN.parts["checklist"], source=FILE)}}
SPEC = replace(KNOWN, parts=PARTS)
"""
CODE = """
import json, os, resource, shutil, sys
from pathlib import Path

image, limit, out = sys.argv[1], int(sys.argv[2]), {}
sys.path.insert(0, sys.argv[3])
import reward_core as RM

cache = Path(os.environ["TORCH_HOME"], "hub", "reward-core")
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))  # the pieces fit, the converted weights do not
try:
    RM.load("Tiny-Checklist", device="cpu")
except RM.RewardCoreError as error:
    out["full"] = [type(error).__name__, str(error)]
out["left"] = sorted(path.name for path in cache.iterdir() if not path.name.endswith(".lock"))
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
model = RM.load("Tiny-Checklist", device="cpu")
out["score"] = model.score("a", image)
out["files"] = sorted(path.name for path in (cache / "VisionReward-Image-bf16").iterdir())
shutil.rmtree(Path(os.environ["HF_HOME"], "hub", "models--zai-org--VisionReward-Image-bf16"))
out["again"] = RM.load("Tiny-Checklist", device="cpu", local_files_only=True).score("a", image)
print(json.dumps(out))
"""


@pytest.fixture
def hub():
    hub = Hub()
    yield hub
    hub.stop()


@pytest.fixture(scope="module")
def expected(tiny):
    return RM.load("VisionReward", device="cpu", files=tiny, local_files_only=True)


@pytest.fixture
def published(expected, tiny, hub, tmp_path):
    """Put the tiny files on the hub; return the pieces, and the environment and packages of a process."""
    import plugin_package

    pieces = {f"ckpts/{path.name}": path.read_bytes() for path in (tiny / "checklist").iterdir()}
    hub.repos["zai-org/VisionReward-Image-bf16"] = {"main": {**pieces, "README.md": b"-"}}
    tokenizer = (tiny / "tokenizer" / "tokenizer.json").read_bytes()
    hub.repos["NousResearch/Meta-Llama-3-8B-Instruct"] = {"main": {"tokenizer.json": tokenizer}}
    alignment = {path.name: path.read_bytes() for path in (tiny / "alignment").iterdir()}
    hub.repos["google/flan-t5-xxl"] = {"main": {"spiece.model": alignment.pop("spiece.model")}}
    hub.repos["zhiqiulin/clip-flant5-xxl"] = {"main": alignment}
    hub.web["/questions.txt"] = "\n".join(expected.checklist.texts).encode()
    digest = hashlib.sha256(hub.web["/questions.txt"]).hexdigest()
    site = tmp_path / "site"
    site.mkdir()
    spec = SPEC.format(url=f"{hub.address}/questions.txt", digest=digest)
    plugin_package.install(site, "tiny_checklist", {"Tiny-Checklist": "tiny_checklist:SPEC"}, spec)
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))},
        "HF_ENDPOINT": hub.address,
        "HF_HOME": str(tmp_path / "hf"),
        "TORCH_HOME": str(tmp_path / "torch"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    return pieces, environment, site


@pytest.mark.slow
def test_the_pieces_are_downloaded_converted_once_and_not_needed_again(
    expected, published, tiny, hub, warm_python
):
    pieces, environment, site = published
    largest = max(path.stat().st_size for path in tiny.glob("*/*") if path.name != "tokenizer.json")
    image = str(pictures()[0])
    done = warm_python.run(["-c", CODE, image, str(largest + 1), str(site)], env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    out = json.loads(done.stdout)
    assert out["full"][0] == "OutputError"
    assert "Cannot write the converted weights to" in out["full"][1]
    assert out["left"] == ["questions.txt"]
    assert out["files"] == ["config.json", "model-00001.safetensors", "model.safetensors.index.json"]
    assert out["score"] == out["again"] == pytest.approx(expected.score("a", image), abs=1e-5)
    asked = [request.line for request in hub.requests if request.line.startswith("GET")]
    for name in pieces:
        assert sum(line.endswith(f"/{name}") for line in asked) == 1  # downloaded once
    assert not any(line.endswith("README.md") for line in asked)


REPAIR = """
import json, os, re, sys
from pathlib import Path

image, count, packages = sys.argv[1:]
sys.path.insert(0, packages)
import reward_core as RM
from reward_core.errors import HubError

converted = Path(os.environ["TORCH_HOME"], "hub", "reward-core", "VisionReward-Image-bf16")
out = []
for _ in range(int(count)):
    try:
        out.append(RM.load("Tiny-Checklist", device="cpu").score("a", image))
    except HubError as error:
        out.append(str(error))
        assert not converted.exists()
        if advice := re.search(r"Delete '(.*)' and", str(error)):
            Path(advice[1]).unlink()
print(json.dumps(out))
"""


@pytest.fixture
def loads(published, warm_python):
    """Return a function: number of loads in a process that does what errors say -> scores and errors."""
    _, environment, site = published

    def loads(count):
        arguments = ["-c", REPAIR, str(pictures()[0]), str(count), str(site)]
        done = warm_python.run(arguments, env=environment, timeout=120)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return loads


def address_of(hub, name):
    """Return the path at which the hub has a file of VisionReward."""
    commit = commit_of(hub.repos["zai-org/VisionReward-Image-bf16"]["main"])
    return f"/zai-org/VisionReward-Image-bf16/resolve/{commit}/{name}"


@pytest.mark.slow
def test_a_download_that_breaks_off_is_an_error_and_completed_by_the_next_one(
    expected, published, hub, loads
):
    name = "ckpts/split_part_ab"
    hub.cut[address_of(hub, name)] = len(published[0][name]) // 2
    error, score = loads(2)
    assert error.startswith("Cannot download zai-org/VisionReward-Image-bf16: the hub answered")
    assert error.endswith(f"/{name}'. Run the command again later.")
    assert score == pytest.approx(expected.score("a", pictures()[0]), abs=1e-5)


@pytest.mark.slow
def test_a_piece_with_a_wrong_byte_is_named_and_replaced_after_its_deletion(expected, published, hub, loads):
    pieces = published[0]
    hub.etags = {piece: hashlib.sha256(piece).hexdigest() for piece in pieces.values()}
    damaged = {}
    for name, share in [("ckpts/split_part_aa", 0), ("ckpts/split_part_ab", 0.5)]:  # a header, a weight
        damaged[name] = bytearray(pieces[name])
        damaged[name][int(share * len(pieces[name]))] ^= 1
        hub.damaged[address_of(hub, name)] = bytes(damaged[name])
    *errors, score = loads(3)
    for (name, content), error in zip(damaged.items(), errors, strict=True):
        found = re.fullmatch(
            r"Cannot use '.*/(ckpts/\w+)': it differs from the published file \(sha256 (\w+), expected "
            r"(\w+)\)\. Delete '.*' and run the command again\.",
            error,
        )
        assert found is not None, error
        assert found.groups() == (name, hashlib.sha256(content).hexdigest(), hub.etags[pieces[name]])
    assert score == pytest.approx(expected.score("a", pictures()[0]), abs=1e-5)


def test_missing_questions_are_reported_and_needed_for_scores_only(reference, tmp_path, caplog):
    folder = tmp_path / "files"
    shutil.copytree(reference, folder)
    (folder / QUESTIONS).unlink()
    load = {"device": "cpu", "files": folder, "download_root": tmp_path, "local_files_only": True}
    model = RM.load("VisionReward", **load)
    assert f"/VisionReward_Image/{QUESTIONS} and copy it to {tmp_path / QUESTIONS}" in caplog.text
    assert model.answers(pictures()[0], ["Is it red?"]) in ([True], [False])
    with pytest.raises(InputError, match=f"Copy {QUESTIONS} or a checklist.json"):
        model.score("a cat", pictures()[0])
    (tmp_path / QUESTIONS).write_text("Is it red?\n" * 30)
    with pytest.raises(HubError, match="differs from the published file"):
        RM.load("VisionReward", **load)
