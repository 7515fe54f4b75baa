"""The tables of `tag`, `sort` and `evaluate` in 80 columns: whole words, and no line that is too long."""

import json

import pytest
from PIL import Image

WIDTH = 80
PROMPTS = [
    "a photo of an astronaut who rides a horse on the surface of",
    "portrait of an extraordinarily old fisherman",
]


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Names of images in the working folder; their captions are prompts."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    names = []
    for i in range(6):
        names.append(f"photos/ComfyUI_{i:05}_.png")
        Image.new("RGB", (64, 64), (40 * i, 90, 160)).save(names[-1])
        (tmp_path / names[-1]).with_suffix(".txt").write_text(PROMPTS[i % 2])
    return names


def check(output, words):
    """Check that no line is longer than the terminal and that no word is broken over two lines."""
    lines = output.splitlines()
    assert max(map(len, lines)) <= WIDTH, output
    assert set(words) - set(output.replace("│", " ").replace("┃", " ").split()) == set(), output


@pytest.mark.parametrize("prompt", [(), ("--prompt", PROMPTS[0])])
def test_tag_fits_80_columns(command, photos, prompt):
    source = prompt or ["--prompt-from-metadata"]
    done = command("tag", "photos", *source, "--model", "tiny", width=WIDTH)
    assert done.returncode == 0, done.stderr
    prompts = [PROMPTS[0]] if prompt else PROMPTS
    check(done.stdout, [*photos, *" ".join(prompts).split(), "percentile:", "'tiny"])


@pytest.mark.parametrize(
    "how", [("--top", "50%", "--into", "good,rest"), ("--top", "1,2", "--into", "best,mediocre,rejected")]
)
def test_sort_fits_80_columns(command, photos, how):
    command("tag", "photos", "--prompt", PROMPTS[0], "--model", "tiny")
    done = command("sort", "photos", *how, width=WIDTH)
    assert done.returncode == 0, done.stderr
    check(done.stdout, [*photos, "score", "sorted"])


def test_evaluate_fits_80_columns(command, photos, tmp_path):
    kinds = [[], ["wrong_relation"], ["wrong_number"], ["wrong_color"], ["missing"], ["extra"]]
    records = [
        {
            "id": str(i),
            "prompt": prompt,
            "generations": photos,
            "ranking": [1, 2, 3, 4, 5, 6],
            "utilities": [1.0, 0.8, 0.6, 0.4, 0.2, 0.0],
            "faults": [[{"kind": kind} for kind in of_image] for of_image in kinds],
            "objects": i + 1,
        }
        for i, prompt in enumerate(PROMPTS)
    ]
    (tmp_path / "rankings.json").write_text(json.dumps(records))
    done = command("evaluate", "tiny", "--data", "rankings.json", width=WIDTH)
    assert done.returncode == 0, done.stderr
    check(done.stdout, ["accuracy", "faultless", "relation", "prompt:", "pairs", "prompts"])
