"""Tables that are read completely have limits on the memory of their values."""

import json
import os
import time

import pytest
from PIL import Image

from reward_core.errors import InputError
from reward_core.files.tables import TableBudget
from reward_core.metadata.image_scores import read_scores
from reward_core.rankings import read_rankings

RECORD = {"id": "1", "prompt": "a cat", "generations": ["a.png", "b.png"], "ranking": [1, 2]}
ROW = "a cat,a.png,b.png\n"


@pytest.fixture
def folder(tmp_path):
    for name in ("a.png", "b.png"):
        Image.new("RGB", (9, 9)).save(tmp_path / name)
    return tmp_path


def write_rankings_of(folder, extension, count):
    path = folder / f"rankings{extension}"
    if extension == ".json":
        path.write_text(json.dumps([RECORD] * count))
    elif extension == ".jsonl":
        path.write_text((json.dumps(RECORD) + "\n") * count)
    elif extension == ".csv":
        path.write_text("prompt,better,worse\n" + ROW * count)
    else:
        pyarrow = pytest.importorskip("pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")
        columns = {"prompt": ["a cat"], "better": ["a.png"], "worse": ["b.png"]}
        parquet.write_table(pyarrow.table({k: v * count for k, v in columns.items()}), path)
    return path


@pytest.mark.parametrize("extension", [".json", ".jsonl", ".csv", ".parquet"])
def test_rankings_with_too_many_values_are_refused(folder, monkeypatch, extension):
    monkeypatch.setenv("REWARD_CORE_MAX_VALUES", "1000")
    assert read_rankings(write_rankings_of(folder, extension, 10))
    with pytest.raises(InputError, match=r"has more than 1,000 values \(REWARD_CORE_MAX_VALUES sets"):
        read_rankings(write_rankings_of(folder, extension, 200))
    monkeypatch.setenv("REWARD_CORE_MAX_VALUES", "100000")
    assert read_rankings(write_rankings_of(folder, extension, 200))


@pytest.mark.parametrize("extension", [".jsonl", ".csv", ".parquet"])
def test_rankings_with_too_many_bytes_are_refused(folder, monkeypatch, extension):
    monkeypatch.setenv("REWARD_CORE_MAX_TABLE_BYTES", "2000")
    assert read_rankings(write_rankings_of(folder, extension, 10))
    with pytest.raises(InputError, match="REWARD_CORE_MAX_TABLE_BYTES sets another limit"):
        read_rankings(write_rankings_of(folder, extension, 2000))


@pytest.mark.parametrize("extension", [".jsonl", ".csv"])
def test_a_ranking_in_a_line_that_is_too_long_is_refused(folder, monkeypatch, extension):
    path = write_rankings_of(folder, extension, 10)
    path.write_text(path.read_text().replace("a cat", "a" * 5000, 1))
    assert read_rankings(path)
    monkeypatch.setenv("REWARD_CORE_MAX_LINE_BYTES", "4000")
    with pytest.raises(InputError, match=r"the line is longer than 4,000 bytes \(REWARD_CORE_MAX_LINE_BYTES"):
        read_rankings(path)


@pytest.mark.parametrize("item", ["[]", "{}", '{"":0}', "0"])
def test_json_with_too_many_values_is_refused_before_it_takes_memory(tmp_path, item):
    path = tmp_path / "rankings.json"
    path.write_text("[" + f"{item}," * 34_000_000 if item == "0" else "[" + f"{item}," * 4_200_000)
    begun = time.process_time()
    with pytest.raises(InputError, match="has more than 33,554,432 values"):
        read_rankings(path)
    assert time.process_time() - begun < 1


@pytest.mark.slow
def test_the_default_limits_allow_rankings_of_the_size_of_pick_a_pic():
    prompt = "a castle, " * 10
    pair = {"prompt": prompt, "image_0": "0" * 40, "image_1": "1" * 40, "label_0": 0.5, "label_1": 0.5}
    text, budget = json.dumps({**pair, "better": "0" * 90, "worse": "1" * 90}), TableBudget()
    for _ in range(584_000):
        budget.take_json(text)


@pytest.mark.parametrize("extension", [".csv", ".json", ".jsonl"])
def test_score_files_with_too_many_values_are_refused(tmp_path, monkeypatch, extension):
    path = tmp_path / f"scores{extension}"
    rows = [{"row": i, "prompt": "a cat", "image": f"{i}.png", "score": 1.5} for i in range(100)]
    if extension == ".csv":
        path.write_text("row,prompt,image,score\n" + "".join(f"{i},a cat,{i}.png,1.5\n" for i in range(100)))
    else:
        lines = map(json.dumps, rows)
        path.write_text(f"[{','.join(lines)}]" if extension == ".json" else "\n".join(lines))
    assert len(read_scores(path)) == 100
    monkeypatch.setenv("REWARD_CORE_MAX_VALUES", "500")
    with pytest.raises(InputError, match="more than 500 values"):
        read_scores(path)


def test_a_pipe_is_refused_as_score_file_without_waiting(tmp_path):
    for extension in (".csv", ".jsonl"):
        os.mkfifo(tmp_path / f"scores{extension}")
        with pytest.raises(InputError, match="this is a named pipe"):
            read_scores(tmp_path / f"scores{extension}")


def test_an_invalid_csv_of_scores_raises_input_error(tmp_path):
    (tmp_path / "scores.csv").write_text("image,score\n" + "a" * 200_000 + ",1\n")
    with pytest.raises(InputError, match=r"Cannot read scores from '.*csv': field larger"):
        read_scores(tmp_path / "scores.csv")


@pytest.mark.parametrize("extension", [".json", ".jsonl"])
def test_the_first_ranking_that_is_not_an_object_is_reported(tmp_path, extension):
    path = tmp_path / f"rankings{extension}"
    path.write_text('["ab", "cd"]' if extension == ".json" else '"ab"\n"cd"\n')
    with pytest.raises(InputError, match=r"(record 0|line 1) is not an object: 'ab'") as raised:
        read_rankings(path)
    assert str(raised.value).count(f"/rankings{extension}'") == 1
