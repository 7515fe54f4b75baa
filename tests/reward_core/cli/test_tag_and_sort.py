"""`reward-core tag` and `reward-core sort` on real folders."""

import json
import os
import shutil
from pathlib import Path

import pytest
from PIL import Image, PngImagePlugin

import reward_core as RM
from reward_core.metadata import (
    SCORE_KEY,
    read_prompt,
    read_score,
    read_score_keys,
    read_stored_score,
    read_texts,
    write_score,
)

PROMPTS = ["a red circle", "a blue square", "a small green star"]
TINY_KEY = "tiny Score"
SETTINGS = "\nNegative prompt: ugly\nSteps: 20, Sampler: Euler a, Seed: 1"


@pytest.fixture
def folder(tmp_path):
    """a.png, b.jpg, c.webp: each says its prompt in another way."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i, (name, prompt) in enumerate(zip(("a.png", "b.jpg", "c.webp"), PROMPTS)):
        image = Image.new("RGB", (64, 64), (90 * i, 40, 160))
        image.paste((220, 30, 30), (10, 10, 30 + 10 * i, 40))
        info, exif = PngImagePlugin.PngInfo(), Image.Exif()
        info.add_text("parameters", prompt + SETTINGS)
        if name == "b.jpg":
            exif.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + (prompt + SETTINGS).encode("utf-16-be")
        if name == "c.webp":
            exif[0x010E] = prompt
        options = {"pnginfo": info} if name == "a.png" else {"exif": exif}
        image.save(folder / name, **options)
    return folder


@pytest.fixture(scope="module")
def tiny():
    return RM.load("tiny", device="cpu")


def test_tag_writes_each_images_score_for_its_own_prompt(command, folder, tiny):
    times = {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}
    done = command("tag", folder, "--prompt-from-metadata", "--model", "tiny", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["failed"] == []
    assert document["written"] is True
    for file, prompt, result in zip(sorted(folder.iterdir()), PROMPTS, document["results"]):
        expected = tiny.score(prompt, file)
        assert result["prompt"] == prompt
        assert result["score"] == pytest.approx(expected, abs=5e-5)
        assert result["percentile"] == pytest.approx(tiny.percentile(expected), abs=0.01)
        assert read_score(file, TINY_KEY) == pytest.approx(expected, abs=1e-4)
        assert file.stat().st_mtime_ns == times[file.name]
    assert read_texts(folder / "a.png")["parameters"].startswith(PROMPTS[0] + SETTINGS + ", tiny Score: ")
    assert [r["prompt_source"] for r in document["results"]] == [
        "parameters (A1111)", "usercomment (A1111)", "imagedescription",
    ]  # fmt: skip


def test_tag_again_changes_nothing_and_can_be_skipped(command, folder):
    options = ("--prompt", "a red circle", "--model", "tiny")
    assert command("tag", folder / "a.png", *options).returncode == 0
    before = (folder / "a.png").read_bytes()
    done = command("tag", folder, *options, "--skip-tagged")
    assert done.returncode == 0
    assert "1 skipped: already scored" in done.stdout
    assert "b.jpg" in done.stdout
    assert "a.png" not in done.stdout
    assert command("tag", folder, *options).returncode == 0
    assert (folder / "a.png").read_bytes() == before


def test_tag_dry_run_and_another_key(command, folder):
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    done = command("tag", folder, "--prompt-from-metadata", "--model", "tiny", "--dry-run")
    assert done.returncode == 0
    assert "nothing written" in done.stdout
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert (
        command("tag", folder / "a.png", "--prompt", "x", "--model", "tiny", "--key", "My Score").returncode
        == 0
    )
    assert read_score(folder / "a.png", TINY_KEY) is None
    assert read_score(folder / "a.png", "My Score") is not None


def test_tag_reports_failures_and_continues(command, folder):
    (folder / "cut.png").write_bytes((folder / "a.png").read_bytes()[:-40])
    Image.new("RGB", (8, 8)).save(folder / "plain.png")
    frames = [Image.new("RGB", (16, 16), color) for color in ("red", "blue")]
    info = PngImagePlugin.PngInfo()
    info.add_text("prompt", "x")
    frames[0].save(folder / "moving.png", save_all=True, append_images=frames[1:], pnginfo=info)
    (folder / "b.jpg").chmod(0o444)
    bmp = folder / "d.bmp"
    frames[0].save(bmp)
    done = command("tag", folder, bmp, folder / "none.png", "--prompt-from-metadata", "--model", "tiny")
    assert done.returncode == 1
    for name, word in (
        ("cut.png", "truncated"),
        ("plain.png", "no prompt"),
        ("moving.png", "animation"),
        ("b.jpg", "read-only"),
        ("d.bmp", "PNG, JPEG and WebP"),
        ("none.png", "no such file"),
    ):
        (line,) = [line for line in done.stderr.splitlines() if name in line]
        assert word in line
    assert read_score(folder / "a.png", TINY_KEY) is not None
    assert read_score(folder / "c.webp", TINY_KEY) is not None


def test_tag_huge_images(command, folder, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5000)  # twice as many are refused
    Image.new("RGB", (101, 100)).save(folder / "huge.png")
    done = command("tag", folder, "--prompt", "x", "--model", "tiny")
    assert done.returncode == 1
    assert [line.split(": ")[1] for line in done.stderr.splitlines()] == [str(folder / "huge.png")]
    assert "too large to decode safely" in done.stderr
    assert read_score(folder / "huge.png", TINY_KEY) is None
    assert read_score(folder / "a.png", TINY_KEY) is not None


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--model", "tiny"], "required"),
        (["--prompt", "x", "--prompt-from-metadata"], "not allowed"),
        (["--prompt", "x", "--model", "tiny", "--key", "a, b"], "name of a score"),
    ],
)
def test_tag_usage_errors(command, folder, arguments, word):
    done = command("tag", folder, *arguments)
    assert done.returncode == 2
    assert word in done.stderr


def test_tag_an_empty_folder(command, tmp_path):
    done = command("tag", tmp_path, "--prompt", "x", "--model", "tiny")
    assert (done.returncode, "no PNG, JPEG or WebP" in done.stderr) == (2, True)


def test_tag_accepts_shell_globs(command, folder):
    """Folders without images are named, captions passed over, and all else is done."""
    (folder / "empty").mkdir()
    (folder / "c.txt").write_text("a green ring")
    (folder / "stray.txt").write_text("of no picture")
    done = command("tag", *sorted(folder.iterdir()), "--prompt-from-metadata", "--model", "tiny")
    assert done.returncode == 1
    assert [line.split(": ")[1] for line in done.stderr.splitlines()] == [
        str(folder / "empty"), str(folder / "stray.txt"),
    ]  # fmt: skip
    assert all(read_score(folder / name, TINY_KEY) is not None for name in ("a.png", "b.jpg", "c.webp"))


def test_tag_writes_a_second_models_score_once(command, folder):
    for _ in range(2):
        done = command("tag", folder, "--prompt-from-metadata", "--model", "tiny", "--key", "HPSv2.1")
        assert done.returncode == 0, done.stderr
    assert read_texts(folder / "a.png")["parameters"].count("HPSv2.1") == 1
    skipped = command("tag", folder, "--prompt", "x", "--model", "tiny", "--key", "HPSv2.1", "--skip-tagged")
    assert "3 skipped: already scored" in skipped.stdout
    assert command("sort", folder, "--into", "a,b", "--top", "1", "--key", "HPSv2.1").returncode == 0


@pytest.fixture
def scored(tmp_path):
    """p0.png ... p9.png with scores 0.9, 0.8, ..., 0.0."""
    for i in range(10):
        Image.new("RGB", (8, 8), (i, i, i)).save(tmp_path / f"p{i}.png")
        write_score(tmp_path / f"p{i}.png", SCORE_KEY, 0.9 - i / 10)
    return tmp_path


def tree(folder):
    return {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}


def test_sort_only_shows_the_plan_by_default(command, scored):
    before = tree(scored)
    done = command("sort", scored, "--into", "best,rest", "--top", "10%")
    assert done.returncode == 0
    assert "1 in best, 9 in rest\nNothing was moved" in done.stdout
    assert tree(scored) == before
    assert not (scored / "best").exists()


@pytest.mark.parametrize(
    ("into", "cut", "sizes"),
    [
        ("best,rest", ["--top", "10%"], [1, 9]),
        ("best,rest", ["--top", "3"], [3, 7]),
        ("best,good,rest", ["--top", "10%,30%"], [1, 3, 6]),
        ("best,rest", ["--top", "1%"], [1, 9]),
        ("best,rest", ["--top", "50"], [10, 0]),
        ("best,rest", ["--threshold", "0.5"], [5, 5]),
        ("best,good,rest", ["--threshold", "0.75,-1"], [2, 8, 0]),
        ("best,rest", ["--threshold", "-9"], [10, 0]),
    ],
)
def test_sort_moves_by_shares_numbers_and_thresholds(command, scored, into, cut, sizes):
    contents = {file.name: file.read_bytes() for file in scored.iterdir()}
    done = command("sort", scored, "--into", into, *cut, "--move")
    assert done.returncode == 0, done.stderr
    order, start = sorted(contents), 0
    for name, size in zip(into.split(","), sizes):
        inside = sorted(f.name for f in (scored / name).iterdir()) if (scored / name).exists() else []
        assert inside == order[start : start + size]
        assert all((scored / name / f).read_bytes() == contents[f] for f in inside)
        start += size
    assert not list(scored.glob("*.png"))


def test_sort_resumes_after_an_interruption(command, scored):
    (scored / "best").mkdir()
    (scored / "rest").mkdir()
    os.rename(scored / "p0.png", scored / "best/p0.png")
    os.rename(scored / "p4.png", scored / "rest/p4.png")
    done = command("sort", scored, "--into", "best,rest", "--top", "20%", "--yes")
    assert done.returncode == 0
    assert "moved 8: 2 in best, 8 in rest" in done.stdout
    assert {"best/p0.png", "best/p1.png", "rest/p4.png"} <= tree(scored)
    assert (
        command("sort", scored, "--into", "best,rest", "--top", "20%", "--yes").stdout.count("moved 0") == 1
    )
    # A better image comes in: the second place is the third's now.
    Image.new("RGB", (8, 8)).save(scored / "new.png")
    write_score(scored / "new.png", SCORE_KEY, 5)
    assert command("sort", scored, "--into", "best,rest", "--top", "2", "--move").returncode == 0
    assert {f.name for f in (scored / "best").iterdir()} == {"new.png", "p0.png"}


def test_sort_copies_and_leaves_the_images(command, scored):
    for _ in range(2):  # the second run finds its copies
        done = command("sort", scored, "--into", "best,rest", "--top", "2", "--copy")
        assert done.returncode == 0, done.stderr
        assert len(list(scored.glob("*.png"))) == 10
        assert {f.name for f in (scored / "best").iterdir()} == {"p0.png", "p1.png"}
        assert len(list((scored / "rest").iterdir())) == 8


def test_sort_copies_again_when_the_order_changed(command, scored):
    sort = ("sort", scored, "--into", "best,rest", "--top", "1")
    assert command(*sort, "--copy").returncode == 0
    done = command(*sort)  # the copies do not count again
    assert (done.returncode, "1 in best, 9 in rest" in done.stdout) == (0, True), done.stderr
    Image.new("RGB", (8, 8)).save(scored / "new.png")
    write_score(scored / "new.png", SCORE_KEY, 5)
    assert command(*sort, "--copy").returncode == 0
    assert {f.name for f in (scored / "best").iterdir()} == {"new.png"}
    assert len(list((scored / "rest").iterdir())) == 10
    assert len(list(scored.glob("*.png"))) == 11
    assert command(*sort, "--move").returncode == 0  # what was copied need only be taken away
    assert len(tree(scored)) == 11
    assert not list(scored.glob("*.png"))


def test_sort_finishes_a_move_that_was_killed_between_its_two_steps(command, scored):
    (scored / "best").mkdir()
    os.link(scored / "p0.png", scored / "best/p0.png")
    done = command("sort", scored, "--into", "best,rest", "--top", "1", "--move")
    assert (done.returncode, len(tree(scored)), (scored / "p0.png").exists()) == (0, 10, False)


@pytest.mark.parametrize("option", ["--move", "--copy"])
def test_sort_moves_captions_with_images(command, scored, option):
    for name in ("p0", "p5"):
        (scored / f"{name}.txt").write_text(name)
    Image.new("RGB", (8, 8)).save(scored / "p5.jpg")  # of the same name: the caption is both's
    write_score(scored / "p5.jpg", SCORE_KEY, 3)
    assert command("sort", scored, *SORT, "--across-prompts", option).returncode == 0
    assert (scored / "best/p5.txt").read_text() == (scored / "rest/p5.txt").read_text() == "p5"
    assert (scored / "rest/p0.txt").read_text() == "p0"
    assert len(list(scored.glob("*.txt"))) == (0 if option == "--move" else 2)


def test_sort_keeps_moved_links_valid(command, scored, tmp_path):
    folder = tmp_path / "links"
    folder.mkdir()
    os.symlink("../p3.png", folder / "a.png")
    os.symlink(scored / "p2.png", folder / "b.png")
    done = command("sort", folder, "--into", "best,rest", "--top", "1", "--move")
    assert done.returncode == 0, done.stderr
    assert (folder / "best/b.png").resolve() == scored / "p2.png"
    assert (folder / "rest/a.png").resolve() == scored / "p3.png"
    assert command("sort", folder, "--into", "best,rest", "--top", "1").stdout.count("there already") == 2


def test_sort_never_overwrites(command, scored):
    (scored / "rest").mkdir()
    Image.new("RGB", (8, 8), "red").save(scored / "rest/p5.png")
    write_score(scored / "rest/p5.png", SCORE_KEY, 0.01)
    before, other = (scored / "rest/p5.png").read_bytes(), (scored / "p5.png").read_bytes()
    for options in ((), ("--copy",), ("--move",)):
        done = command("sort", scored, "--into", "best,rest", "--top", "2", *options)
        assert done.returncode == 1
        assert "exists already and is not overwritten" in done.stderr
        assert (scored / "rest/p5.png").read_bytes() == before
        assert (scored / "p5.png").read_bytes() == other


@pytest.mark.parametrize("option", ["--move", "--copy"])
def test_sort_where_hard_links_are_not_supported(command, scored, monkeypatch, option):
    def refused(*arguments):
        raise OSError(1, "Operation not permitted")  # as on FAT

    monkeypatch.setattr(os, "link", refused)
    (scored / "rest").mkdir()
    (scored / "rest/p9.png").write_bytes(b"another file")
    times = [(scored / f"p{i}.png").stat().st_mtime_ns for i in range(10)]
    done = command("sort", scored, "--into", "best,rest", "--top", "2", option)
    assert done.returncode == 1
    assert (scored / "rest/p9.png").read_bytes() == b"another file"
    assert (scored / "p9.png").exists()
    moved = [scored / ("best" if i < 2 else "rest") / f"p{i}.png" for i in range(9)]
    assert [rank.stat().st_mtime_ns for rank in moved] == times[:9]
    assert len(list(scored.glob("*.png"))) == (1 if option == "--move" else 10)
    assert not list(scored.rglob(".*"))


def test_sort_without_any_score_is_one_line_that_says_what_to_run(command, tmp_path):
    for i in range(5):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{i}.png")
    done = command("sort", tmp_path, "--into", "best,rest", "--top", "1")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "none of its 5 images has a score" in line
    assert f"reward-core tag {tmp_path} --prompt-from-metadata" in line


def test_sort_by_an_unknown_key_lists_the_scores_of_the_images(command, tmp_path):
    for i in range(2):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{i}.png")
        write_score(tmp_path / f"{i}.png", "tiny Score", 0.5)
    done = command("sort", tmp_path, "--into", "best,rest", "--top", "1", "--key", "tiny")
    assert done.returncode == 2
    assert "none of its 2 images has this score. They have tiny Score: 2 images. Change --key." in done.stderr


def test_sort_refuses_a_folder_without_images(command, tmp_path):
    done = command("sort", tmp_path, "--into", "best,rest", "--top", "1")
    assert done.returncode == 2
    assert "no images in this folder" in done.stderr


def test_tag_shows_the_best_and_worst_ten_of_many_images(command, folder, tmp_path):
    for i in range(23):
        Image.new("RGB", (64, 64), (10 * i, 40, 160)).save(tmp_path / f"{i}.png")
    done = command("tag", tmp_path, "--prompt", "a red circle", "--model", "tiny")
    rows = [line.split("│") for line in done.stdout.splitlines() if line.startswith("│")]
    cells = [[cell.strip() for cell in row[1:-1]] for row in rows]
    assert sum(cell[1] != "" for cell in cells) == 20
    assert "... 3 more ..." in done.stdout
    scores = [float(cell[1]) for cell in cells if cell[1]]
    assert scores == sorted(scores, reverse=True)


def test_sort_leaves_images_without_a_score(command, scored):
    Image.new("RGB", (8, 8)).save(scored / "untagged.png")
    (scored / "cut.png").write_bytes((scored / "p0.png").read_bytes()[:-20])
    (scored / "notes.txt").write_text("no picture")
    done = command("sort", scored, "--into", "best,rest", "--top", "10%", "--move", "--json")
    assert done.returncode == 1
    assert "untagged.png" in done.stderr
    assert "reward-core tag" in done.stderr
    assert {"untagged.png", "cut.png", "notes.txt"} <= tree(scored)
    document = json.loads(done.stdout)
    assert document["done"] == "moved"
    assert [r["score"] for r in document["results"]] == [pytest.approx(0.9 - i / 10) for i in range(10)]
    assert len(document["failed"]) == 2


def test_sort_by_a_file_of_scores(command, tmp_path, tiny):
    images = tmp_path / "images"
    images.mkdir()
    pairs = {}
    for i in range(4):
        Image.new("RGB", (64, 64), (60 * i, 0, 0)).save(images / f"{i}.png")
        pairs[f"{i}.png"] = "a red circle"
    (tmp_path / "prompts.json").write_text(json.dumps(pairs))
    for suffix in (".csv", ".json", ".jsonl"):
        out = tmp_path / f"scores{suffix}"
        score = ["score", "--prompts", tmp_path / "prompts.json", "--images", images, "--out", out]
        assert command(*score, "--model", "tiny").returncode == 0
        done = command("sort", images, "--into", "best,rest", "--top", "1", "--scores", out, "--json")
        assert done.returncode == 0
        best = json.loads(done.stdout)["results"][0]
        rewards = tiny.score("a red circle", [images / f"{i}.png" for i in range(4)])
        assert best["image"] == str(images / f"{rewards.index(max(rewards))}.png")
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    done = command("sort", images, "--into", "best,rest", "--top", "1", "--scores", tmp_path / "other.csv")
    assert (done.returncode, "other.csv" in done.stderr) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--into", "best", "--top", "1"], "two folders"),
        (["--into", "a,b,c", "--top", "1"], "one cut for each folder except the last"),
        (["--into", "a,a", "--top", "1"], "twice"),
        (["--into", "a,.", "--top", "1"], "--into"),
        (["--into", "a,b", "--top", "x"], "--top"),
        (["--into", "a,b", "--top", "0"], "--top"),
        (["--into", "a,b", "--top", "120%"], "--top"),
        (["--into", "a,b", "--top", "nan%"], "--top"),
        (["--into", "a,b", "--threshold", "x"], "--threshold"),
        (["--into", "a,b", "--threshold", "nan"], "--threshold"),
        (["--into", "a,b", "--top", "1", "--key", "a: b"], "name of a score"),
        (["--into", "a,b,c", "--threshold", "0,1"], "expected descending order"),
        (["--into", "a,b"], "required"),
        (["--into", "a,b", "--top", "1", "--move", "--copy"], "not allowed"),
    ],
)
def test_sort_usage_errors(command, scored, arguments, word):
    done = command("sort", scored, *arguments)
    assert done.returncode == 2
    assert word in done.stderr
    assert len(tree(scored)) == 10


@pytest.mark.slow
def test_tag_and_sort_as_subprocesses(run, folder):
    done = run("tag", folder, "--prompt-from-metadata", "--model", "tiny")
    assert done.returncode == 0, done.stderr
    done = run("sort", folder, "--into", "best,rest", "--top", "1", "--across-prompts", "--move")
    assert done.returncode == 0, done.stderr
    assert "moved 3: 1 in best, 2 in rest" in done.stdout


BUNDLED = Path(RM.__file__).parent / "demo"
SORT = ("--into", "best,rest", "--top", "1")


def test_each_models_score_has_the_models_name(command, folder):
    tag = ("tag", folder, "--prompt-from-metadata", "--model")
    for model in ("tiny", "tiny-judge"):
        done = command(*tag, model)
        assert (done.returncode, f"written as '{model} Score'" in done.stdout) == (0, True), done.stderr
    for image in folder.iterdir():
        assert read_score_keys(image) == ["tiny Score", "tiny-judge Score"]
        assert read_score(image, "tiny Score") != read_score(image, "tiny-judge Score")
    done = command("sort", folder, *SORT)
    assert done.returncode == 2
    assert all(word in done.stderr for word in ("tiny Score", "tiny-judge Score", "3 images", "--key"))
    done = command("sort", folder, *SORT, "--key", "tiny-judge Score")
    assert (done.returncode, "sorted by 'tiny-judge Score' (model: tiny-judge)" in done.stdout) == (0, True)
    best = max(folder.iterdir(), key=lambda image: read_score(image, "tiny-judge Score"))
    document = json.loads(command("sort", folder, *SORT, "--key", "tiny-judge Score", "--json").stdout)
    assert document["results"][0]["image"] == str(best)
    assert (document["key"], document["model"]) == ("tiny-judge Score", "tiny-judge")


@pytest.mark.parametrize("key", [[], ["--key", "HPSv2.1"]], ids=["default key", "own key"])
@pytest.mark.parametrize("rank", ["best", "model.safetensors", "b\u00e4r, #2"])
def test_tag_then_sort_needs_no_more_options_for_a_local_model(command, folder, tmp_path, rank, key):
    local = tmp_path / ("my model" if rank == "model.safetensors" else rank)
    shutil.copytree(BUNDLED / "tiny", local)
    model = local / rank if rank == "model.safetensors" else local
    done = command("tag", folder, "--prompt-from-metadata", "--model", model, *key)
    assert done.returncode == 0, done.stderr
    done = command("sort", folder, *SORT, "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    name = {"best": "best", "model.safetensors": "my model"}.get(rank, "b_r_ _2")
    assert document["key"] == (key[1] if key else f"{name} Score")
    assert document["model"].startswith(f"{name}@")
    assert len(document["results"]) == 3


@pytest.mark.parametrize("option", [[], ["--skip-tagged"]])
def test_another_models_score_is_overwritten_only_with_overwrite(command, folder, option):
    tag = ("tag", folder, "--prompt-from-metadata", "--key", "My Score", "--model")
    command("tag", folder / "a.png", folder / "b.jpg", *tag[2:], "tiny")
    before = {name: read_score(folder / name, "My Score") for name in ("a.png", "b.jpg")}
    done = command(*tag, "tiny-judge", *option)
    assert done.returncode == 1
    for name in before:
        (line,) = [line for line in done.stderr.splitlines() if name in line]
        assert "a score of tiny " in line
        assert "--overwrite" in line
        assert read_score(folder / name, "My Score") == before[name]
    assert read_stored_score(folder / "c.webp", "My Score").model == "tiny-judge"
    for arguments in ((), ("--key", "My Score")):
        done = command("sort", folder, *SORT, *arguments, "--move")
        assert done.returncode == 2
        assert "tiny: 2 images, tiny-judge: 1 image" in done.stderr
    assert len(list(folder.iterdir())) == 3
    assert command(*tag, "tiny-judge", *option, "--overwrite").returncode == 0
    assert {read_stored_score(image, "My Score").model for image in folder.iterdir()} == {"tiny-judge"}
    assert all(read_score(folder / name, "My Score") != before[name] for name in before)
    assert command("sort", folder, *SORT).returncode == 0


def test_two_local_models_of_the_same_name_are_distinguished(command, folder, tmp_path):
    for run, model in (("one", "tiny"), ("two", "tiny-judge"), ("copy", "tiny")):
        shutil.copytree(BUNDLED / model, tmp_path / run / "best")
    tag = ("tag", folder, "--prompt-from-metadata", "--model")
    assert command(*tag, tmp_path / "one/best").returncode == 0
    done = command(*tag, tmp_path / "two/best")
    assert (done.returncode, done.stderr.count("best@")) == (1, 3)
    assert command(*tag, tmp_path / "copy/best").returncode == 0
    done = command(*tag, tmp_path / "copy/best", "--skip-tagged")
    assert "3 skipped: already scored" in done.stdout


def test_webui_scores_are_kept_and_usable_for_sorting(command, folder):
    for image in folder.iterdir():
        write_score(image, SCORE_KEY, 1.2345)  # as the extension does: without a model
    done = command("tag", folder, "--prompt-from-metadata", "--model", "tiny", "--key", SCORE_KEY)
    assert (done.returncode, done.stderr.count("a score of ImageReward ")) == (1, 3)
    assert {read_score(image, SCORE_KEY) for image in folder.iterdir()} == {1.2345}
    done = command("sort", folder, *SORT)
    assert (done.returncode, "sorted by 'ImageReward Score' (model: ImageReward)" in done.stdout) == (0, True)
    write_score(folder / "a.png", "Mine", 1, model="tiny")
    write_score(folder / "b.jpg", "Mine", 1)  # by nobody knows whom
    done = command("tag", folder, "--prompt-from-metadata", "--model", "tiny", "--key", "Mine")
    assert (done.returncode, done.stderr.count("an unknown model")) == (1, 1)
    assert "b.jpg" in done.stderr


NOT_FINITE = [float("nan"), float("inf"), -float("inf"), "NaN", "-Infinity", "1e999"]


@pytest.mark.parametrize("suffix", [".csv", ".json", ".jsonl", ".parquet"])
@pytest.mark.parametrize("score", NOT_FINITE, ids=str)
def test_sort_names_scores_of_a_file_that_are_not_finite(command, scored, suffix, score):
    rows = [{"image": f"p{i}.png", "prompt": "x", "score": i / 10} for i in range(10)]
    rows[3]["score"] = score if suffix != ".parquet" else float(score)
    rows.append(rows[3])
    out = scored / f"scores{suffix}"
    if suffix == ".csv":
        lines = ["image,prompt,score", *(f"{row['image']},{row['prompt']},{row['score']}" for row in rows)]
        out.write_text("\n".join(lines))
    elif suffix == ".parquet":
        pyarrow = pytest.importorskip("pyarrow.parquet")
        pyarrow.write_table(pytest.importorskip("pyarrow").Table.from_pylist(rows), out)
    else:
        out.write_text("\n".join(map(json.dumps, rows)) if suffix == ".jsonl" else json.dumps(rows))
    done = command("sort", scored, *SORT, "--scores", out, "--move")
    assert done.returncode == 1
    assert f"p3.png: its score in {out} is {float(score)}, not a finite number" in done.stderr
    assert (scored / "p3.png").exists()
    assert [file.name for file in (scored / "best").iterdir()] == ["p9.png"]


@pytest.mark.parametrize("score", ["nan", "inf", "-inf", "Infinity"])
def test_sort_and_tag_name_scores_in_images_that_are_not_finite(command, folder, score):
    assert command("tag", folder, "--prompt-from-metadata", "--model", "tiny").returncode == 0
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", f"a red circle{SETTINGS}, tiny Score: {score}")
    Image.new("RGB", (64, 64)).save(folder / "bad.png", pnginfo=info)
    for arguments in (
        ("sort", folder, *SORT, "--key", "tiny Score"),
        ("tag", folder, "--prompt-from-metadata", "--model", "tiny", "--skip-tagged"),
        ("sort", folder, *SORT, "--across-prompts", "--move"),
    ):
        done = command(*arguments)
        assert done.returncode == 1
        assert f"bad.png: its 'tiny Score' is {score}, not a finite number" in done.stderr
    assert (folder / "bad.png").exists()
    assert len(list((folder / "best").iterdir())) == 1
    assert command("tag", folder / "bad.png", "--prompt", "x", "--model", "tiny").returncode == 0
    assert read_score(folder / "bad.png", TINY_KEY) is not None


@pytest.mark.parametrize("score", ["abc", True])
def test_sort_refuses_scores_that_are_not_numbers(command, scored, score):
    out = scored / "scores.json"
    out.write_text(json.dumps([{"image": "p1.png", "score": score}]))
    done = command("sort", scored, *SORT, "--scores", out)
    assert done.returncode == 2
    assert all(word in done.stderr for word in ("scores.json", "p1.png", str(score)))


@pytest.fixture
def prompted(tmp_path):
    """Eight images: four of an easy prompt, which score high, and four of a hard one."""
    folder = tmp_path / "prompted"
    folder.mkdir()
    for i in range(8):
        info = PngImagePlugin.PngInfo()
        info.add_text("parameters", ("an easy prompt" if i < 4 else "a hard\nprompt") + SETTINGS)
        Image.new("RGB", (8, 8), (i, i, i)).save(folder / f"p{i}.png", pnginfo=info)
        write_score(folder / f"p{i}.png", TINY_KEY, 2 - i / 4)
        write_score(folder / f"p{i}.png", "CLIP Score", 2 - i / 4)
    return folder


def test_sort_warns_that_a_threshold_is_the_same_for_several_prompts(command, prompted):
    sort = ("sort", prompted, "--into", "best,rest", "--threshold", "1", "--key", "CLIP Score", "--json")
    done = command(*sort)
    assert done.returncode == 0
    assert "2 different prompts" in done.stderr
    assert "--across-prompts" in done.stderr
    document = json.loads(done.stdout)
    assert document["prompts"] == 2
    assert {row["prompt"] for row in document["results"]} == {"an easy prompt", "a hard prompt"}
    assert command(*sort, "--across-prompts").stderr == ""
    # ImageReward's family has scores that are comparable across prompts.
    assert command(*sort, "--key", TINY_KEY).stderr == ""


def test_sort_says_how_images_were_ranked(command, prompted):
    sort = ("sort", prompted, "--into", "best,rest", "--top", "1", "--key")
    assert "\n2 prompts, images ranked within their prompt\n" in command(*sort, "CLIP Score").stdout
    assert "tiny is comparable across prompts, see --across-prompts" in command(*sort, TINY_KEY).stdout
    across = command(*sort, "CLIP Score", "--across-prompts")
    assert "1 in best, 7 in rest" in across.stdout
    assert "2 prompts, all images ranked together" in across.stdout


def test_sort_ranks_images_without_any_prompt_together(command, scored):
    done = command("sort", scored, *SORT)
    assert done.returncode == 0
    assert "1 in best, 9 in rest" in done.stdout
    assert "prompts unknown: all images ranked together" in done.stdout


@pytest.mark.parametrize(("top", "best"), [("25%", {"p0", "p4"}), ("2", {"p0", "p1", "p4", "p5"})])
def test_sort_takes_the_best_of_each_prompt(command, prompted, top, best):
    Image.new("RGB", (8, 8)).save(prompted / "unknown.png")
    write_score(prompted / "unknown.png", TINY_KEY, 9)
    sort = ("sort", prompted, "--into", "best,rest", "--top", top, "--key", TINY_KEY, "--move")
    for _ in range(2):  # the second run finds what the first one moved
        done = command(*sort)
        assert done.returncode == 1
        (line,) = done.stderr.splitlines()
        assert "unknown.png: no prompt" in line
        assert {file.stem for file in (prompted / "best").iterdir()} == best
        assert len(list((prompted / "rest").iterdir())) == 8 - len(best)


def test_sort_uses_the_scored_prompt(command, folder):
    """Not by the images' own: one prompt was given for all."""
    assert read_prompt(folder / "a.png").text != read_prompt(folder / "b.jpg").text
    tag = ("tag", folder, "--model", "tiny")
    assert command(*tag, "--prompt", 'a "red" circle\n& more').returncode == 0
    done = command("sort", folder, *SORT, "--json")
    assert (done.returncode, done.stderr, json.loads(done.stdout)["prompts"]) == (0, "", 1)
    assert {row["prompt"] for row in json.loads(done.stdout)["results"]} == {'a "red" circle & more'}
    assert command("tag", folder / "a.png", *tag[2:], "--prompt", "a blue square").returncode == 0
    assert "2 prompts, images ranked within" in command("sort", folder, *SORT).stdout
    assert command(*tag, "--prompt-from-metadata").returncode == 0
    assert "3 prompts, images ranked within" in command("sort", folder, *SORT).stdout


def test_sort_by_a_file_uses_its_prompts(command, scored):
    out = scored / "scores.csv"
    rows = [f"p{i}.png,{'first' if i < 5 else 'second'},{1 - i / 10}" for i in range(10)]
    out.write_text("\n".join(["image,prompt,score", *rows]))
    done = command("sort", scored, *SORT, "--scores", out)
    assert "sorted by " in done.stdout
    assert "2 prompts, images ranked within" in done.stdout
    done = command("sort", scored, *SORT, "--scores", out, "--copy")
    assert (done.returncode, done.stderr) == (0, "")
    assert {file.name for file in (scored / "best").iterdir()} == {"p0.png", "p5.png"}


def test_tag_with_several_models_writes_a_score_of_each(command, folder):
    write_score(folder / "a.png", "Other Score", 4)
    models = ("--model", "tiny", "--model", "tiny-judge")
    done = command("tag", folder, "--prompt-from-metadata", *models, "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["models"] == {"tiny": "tiny Score", "tiny-judge": "tiny-judge Score"}
    for name in document["models"]:
        alone = RM.load(name, device="cpu")
        for result in document["results"]:
            expected = alone.score(result["prompt"], result["image"])
            assert result["scores"][name]["score"] == pytest.approx(expected, abs=1e-4)
            assert read_score(result["image"], f"{name} Score") == pytest.approx(expected, abs=1e-4)
    assert [result["other_scores"] for result in document["results"]] == [{"Other Score": "4.0000"}, {}, {}]
    again = command("tag", folder, "--prompt-from-metadata", *models, "--skip-tagged")
    assert "3 skipped" in again.stdout
    shown = command("tag", folder, "--prompt-from-metadata", *models, width=80).stdout
    assert max(len(line) for line in shown.splitlines() if str(folder) not in line) <= 80
    assert "other scores kept: 'Other Score' (1 image)" in " ".join(shown.split())
    assert command("tag", folder, "--prompt", "x", *models, "--key", "My Score").returncode == 2


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_sort_by_one_of_several_columns_of_a_file(command, folder, tmp_path, suffix):
    """The columns are named by the models, and --key chooses one of them."""
    out, prompts = tmp_path / f"scores{suffix}", tmp_path / "prompts.json"
    prompts.write_text(json.dumps({file.name: "a red circle" for file in folder.iterdir()}))
    models = ("--model", "tiny", "--model", "tiny-judge")
    done = command("score", "--prompts", prompts, "--images", folder, "--out", out, *models)
    assert done.returncode == 0, done.stderr
    done = command("sort", folder, *SORT, "--scores", out)
    assert done.returncode == 2
    assert all(word in done.stderr for word in ("tiny, tiny-judge", "--key"))
    done = command("sort", folder, *SORT, "--scores", out, "--key", "tiny-judge", "--json")
    document = json.loads(done.stdout)
    judge = RM.load("tiny-judge", device="cpu")
    for result in document["results"]:
        assert result["score"] == pytest.approx(judge.score("a red circle", result["image"]), abs=1e-4)
    assert "no such column" in command("sort", folder, *SORT, "--scores", out, "--key", "CLIP").stderr
