"""Manifests with faulty quotes, commas, encodings or headers, or with another folder of images."""

import json
import shutil
import time
from pathlib import Path

import pytest
from bulk_inputs import FAST, keep_first_shard, make_images, rows_of

pytest.importorskip("pyarrow")
import pyarrow
import pyarrow.parquet

from reward_core.bulk import Manifest
from reward_core.errors import InputError

COUNT = 12


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("inputs")
    make_images(root, COUNT)
    return root


def scored(command, inputs: Path, manifest: Path, *more: object) -> tuple[int, list[dict]]:
    """Return the exit code and the rows of a run."""
    out = manifest.parent / "scores.jsonl"
    done = command("score", "--manifest", manifest, "--images", inputs, "--out", out, *FAST, *more)
    assert done.returncode in (0, 1), done.stderr
    return done.returncode, rows_of(out)


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8", newline="")
    return path


# Quotes and commas


@pytest.mark.parametrize("count", [30, 1_500], ids=["to the end", "beyond what a field may hold"])
def test_an_unclosed_quote_spoils_only_its_own_row(command, tmp_path, count):
    # The images do not exist; the error "no such file" shows that a row was parsed.
    lines = [f"{i}.png,a red circle {i:>100}\n" for i in range(count)]  # a field may hold 131,072 characters
    lines[7] = '7.png,"a red circle 7\n'
    manifest = write(tmp_path / "pairs.csv", "image,prompt\n" + "".join(lines))
    code, rows = scored(command, tmp_path, manifest, "--shard-rows", 512)
    assert code == 1
    bad = rows.pop(7)
    assert bad["error"].startswith("not a CSV row: line 9: a quote opened in this line is not closed")
    assert [row["image"] for row in rows] == [f"{i}.png" for i in range(count) if i != 7]
    assert {row["error"] for row in rows} == {"no such file"}


SWALLOWED = {
    "the image first": ("image,prompt", '1.png,"a dog', "2.png,a cat", "3.png,a bird", '4.png,a fish"'),
    "the prompt first": ("prompt,image", '"a dog,1.png', "a cat,2.png", "a bird,3.png", 'a fish",4.png'),
    "two rows": ("image,prompt", '1.png,"a dog', '2.png,a cat"', "3.png,a bird", "4.png,a fish"),
    "two rows, the prompt first": ("prompt,image", '"a dog,1.png', 'a cat",2.png', "b,3.png", "c,4.png"),
    "text behind the second quote": ("image,prompt", '1.png,"a dog', '2.png,"a cat"', "3.png,b", "4.png,c"),
    "another column": ("note,image,prompt", '"x,1.png,a dog', 'y",2.png,a cat', "z,3.png,b", "z,4.png,c"),
    "the wrong number of fields": ("image,prompt", '1.png,"a dog', 'cat",2.png', "3.png,b", "4.png,c"),
}


@pytest.mark.parametrize("kind", SWALLOWED)
def test_a_quote_closed_in_a_later_row_swallows_no_rows(command, inputs, tmp_path, kind):
    manifest = write(tmp_path / "pairs.csv", "\n".join(SWALLOWED[kind]) + "\n")
    code, rows = scored(command, inputs, manifest)
    assert code == 1
    assert len(rows) == 4
    assert rows[0]["error"].startswith("not a CSV row: line 2: a quote opened in this line is not closed")
    assert all("\n" not in (row["prompt"] or "") for row in rows)
    assert rows[2]["error"] is None


@pytest.mark.slow
def test_multi_line_prompts_are_read_correctly(command, inputs, tmp_path):
    prompts = ["a dog,\nrunning, fast\n", "a cat\r\nasleep", 'a "bird",\n\nred', "a fish, 4.png", "a horse"]
    lines = [f'"{prompt.replace(chr(34), chr(34) * 2)}",{i}.png\n' for i, prompt in enumerate(prompts)]
    manifest = write(tmp_path / "pairs.csv", "prompt,image\n" + "".join(lines) * 200)
    code, rows = scored(command, inputs, manifest, "--batch-size", 64, "--shard-rows", 600)
    assert code == 0
    assert [row["prompt"] for row in rows] == prompts * 200


def test_an_unquoted_comma_becomes_an_error_row(command, inputs, tmp_path):
    manifest = write(tmp_path / "pairs.csv", "image,prompt\n0.png,a dog, running\n1.png,a cat\n2.png,b,\n")
    code, rows = scored(command, inputs, manifest)
    assert code == 1
    assert rows[0]["error"].startswith("not a CSV row: the row has 3 fields, the header 2; ")
    assert [row["score"] is None for row in rows] == [True, False, True]


def test_line_numbers_do_not_depend_on_where_reading_starts(command, tmp_path):
    lines = [f'"{i}\n{i}",{i}.png\n' for i in range(1200)]
    lines[1100] = 'a"b,"c"d\n'
    manifest = write(tmp_path / "pairs.csv", "prompt,image\n" + "".join(lines))
    out = tmp_path / "scores"
    arguments = ("score", "--manifest", manifest, "--out", f"{out}/", "--format", "jsonl", *FAST[:-1], 1050)
    assert command(*arguments).returncode == 1
    _, last = sorted(out.glob("rows-*"))
    before = last.read_bytes()
    assert json.loads(before.splitlines()[50])["error"].startswith("not a CSV row: line 2202: ")
    last.unlink()
    assert command(*arguments).returncode == 1
    assert last.read_bytes() == before


# Headers and encodings

ROWS = "prompt,image\na dog,0.png\n"
REFUSED = {
    "UTF-16": (ROWS.encode("utf-16"), "its encoding is UTF-16. Save it as UTF-8"),
    "UTF-16 without a mark": (ROWS.encode("utf-16-le"), "its encoding is UTF-16. Save it as UTF-8"),
    "UTF-16 big endian": ("\ufeff".encode("utf-16-be") + ROWS.encode("utf-16-be"), "Save it as UTF-8"),
    "CR line endings": (ROWS.replace("\n", "\r").encode(), "its lines end with CR only. Save it with"),
    "a huge field": (b"x" * 140_000 + b",prompt,image\n", "its header is not valid CSV: field larger than"),
    "an open quote": (b'prompt,"image\na,b\n', "its header is not valid CSV: unexpected end of data"),
    "a column twice": (b"prompt,image,prompt\na,b,c\n", "it has 2 columns named 'prompt'"),
}


SEPARATED = {
    "semicolons": (
        "prompt;image\na dog;0.png\n",
        "separated by ';', not by ',' (its header is 'prompt;image')",
    ),
    "semicolons and quotes": ('\ufeff"prompt";"image"\r\n"a";"0.png"\r\n', "separated by ';', not"),
    "a comma in the header": ('image;"a, b";prompt\n0.png;x;a dog\n', "separated by ';', not"),
    "tabs": ("prompt\timage\na dog, red\t0.png\n", "separated by tabs, not by ','"),
    "bars": ("image|prompt\n0.png|a dog\n", "separated by '|', not by ','"),
    "other names": (
        "caption;file\na dog;0.png\n",
        "separated by ';', not by ',' (its header is 'caption;file')",
    ),
    "Excel's line": (
        "sep=;\nprompt;image\na dog;0.png\n",
        "its first line is 'sep=;', not the header; remove",
    ),
}


@pytest.mark.parametrize("kind", SEPARATED)
def test_a_csv_with_another_separator_is_refused_and_the_separator_named(command, tmp_path, kind):
    content, output = SEPARATED[kind]
    manifest = write(tmp_path / "pairs.csv", content)
    done = command("score", "--manifest", manifest, "--out", tmp_path / "scores.csv", *FAST)
    assert done.returncode == 2
    assert f"Cannot read '{manifest}': its" in done.stderr
    assert output in done.stderr
    assert "commas: pandas.read_csv(path, sep='" in done.stderr or kind == "Excel's line"


def test_a_separator_inside_a_column_name_is_accepted(command, inputs, tmp_path):
    manifest = write(tmp_path / "pairs.csv", "prompt,a;b;c;d,image\na dog;cat,x,0.png\n")
    assert scored(command, inputs, manifest)[0] == 0
    done = command("score", "--manifest", manifest, "--out", tmp_path / "s.csv", "--prompt-column", "x")
    assert "no column 'x'" in done.stderr


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_prompts_in_other_encodings_become_error_rows(command, inputs, tmp_path, form):
    texts = ["café".encode(), "café".encode("cp1252"), "東京".encode("shift-jis"), b"a dog"]
    lines = [b"prompt,image"] if form == "csv" else []
    template = b"%s,0.png" if form == "csv" else b'{"prompt": "%s", "image": "0.png"}'
    manifest = tmp_path / f"pairs.{form}"
    manifest.write_bytes(b"\n".join([*lines, *(template % text for text in texts)]) + b"\n")
    code, rows = scored(command, inputs, manifest)
    assert code == 1
    assert [row["prompt"] for row in rows] == ["café", None, None, "a dog"]
    assert [row["error"] for row in rows] == [None, *["the prompt is not valid UTF-8"] * 2, None]


@pytest.mark.parametrize("kind", REFUSED)
def test_an_invalid_header_is_reported(command, tmp_path, kind):
    content, output = REFUSED[kind]
    manifest = tmp_path / "pairs.csv"
    manifest.write_bytes(content)
    done = command("score", "--manifest", manifest, "--out", tmp_path / "scores.csv", *FAST)
    assert done.returncode == 2
    assert f"Cannot read '{manifest}': " in done.stderr
    assert output in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["pairs.csv"]


def test_lines_of_json_in_utf16_are_reported(command, tmp_path):
    manifest = tmp_path / "pairs.jsonl"
    manifest.write_bytes('{"prompt": "a dog", "image": "0.png"}\n'.encode("utf-16"))
    done = command("score", "--manifest", manifest, "--out", tmp_path / "scores.csv", *FAST)
    assert done.returncode == 2
    assert "Save it as UTF-8" in done.stderr


def test_a_duplicate_parquet_column_is_reported(command, tmp_path):
    table = pyarrow.Table.from_arrays([pyarrow.array(["a"])] * 3, names=["prompt", "image", "prompt"])
    pyarrow.parquet.write_table(table, tmp_path / "pairs.parquet")
    done = command("score", "--manifest", tmp_path / "pairs.parquet", "--out", tmp_path / "s.csv", *FAST)
    assert done.returncode == 2
    assert "it has 2 columns named 'prompt'" in done.stderr


# Parquet


def strings(*cells: bytes, kind: pyarrow.DataType) -> pyarrow.Array:
    """Return an array of strings from bytes that may be invalid UTF-8."""
    array = pyarrow.array(list(cells), pyarrow.large_binary() if kind == pyarrow.large_string() else None)
    return array.view(kind)


@pytest.mark.parametrize("kind", ["string", "large_string", "struct"])
def test_non_utf8_bytes_in_parquet_become_error_rows(command, inputs, tmp_path, kind):
    type_ = pyarrow.large_string() if kind == "large_string" else pyarrow.string()
    prompts = strings(b"a dog", b"caf\xe9", b"a cat", kind=type_)
    images = strings(b"0.png", b"1.png", b"caf\xe9.png", kind=type_)
    if kind == "struct":
        images = pyarrow.StructArray.from_arrays([images], ["path"])
    pyarrow.parquet.write_table(
        pyarrow.table({"prompt": prompts, "image": images}), tmp_path / "pairs.parquet"
    )
    code, rows = scored(command, inputs, tmp_path / "pairs.parquet")
    assert code == 1
    assert [row["error"] for row in rows] == [None, "the prompt is not valid UTF-8", "no such file"]
    assert rows[2]["image"] == "caf\udce9.png"


def test_a_damaged_page_of_parquet_is_reported(command, inputs, tmp_path):
    manifest = tmp_path / "pairs.parquet"
    columns = {"prompt": ["a red circle"] * 500, "image": [f"{i}.png" for i in range(500)]}
    pyarrow.parquet.write_table(pyarrow.table(columns), manifest, compression="zstd", use_dictionary=False)
    data = manifest.read_bytes()
    manifest.write_bytes(data[:60] + b"\0" * 200 + data[260:])
    done = command("score", "--manifest", manifest, "--images", inputs, "--out", tmp_path / "s.csv", *FAST)
    assert done.returncode == 2
    assert f"Cannot read '{manifest}' as Parquet: " in done.stderr


# Another folder of images


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_another_folder_of_images_is_refused(command, inputs, tmp_path, form):
    names = [f"{i}.png" for i in range(COUNT)]
    manifest = tmp_path / f"pairs.{form}"
    if form == "parquet":
        pyarrow.parquet.write_table(pyarrow.table({"prompt": ["a dog"] * COUNT, "image": names}), manifest)
    elif form == "csv":
        write(manifest, "prompt,image\n" + "".join(f"a dog,{name}\n" for name in names))
    else:
        write(manifest, "".join(json.dumps({"prompt": "a dog", "image": name}) + "\n" for name in names))
    out, other = tmp_path / "scores", shutil.copytree(inputs, tmp_path / "other")
    arguments = ("score", "--manifest", manifest, "--out", f"{out}/", *FAST, "--images")
    assert command(*arguments, inputs).returncode == 0
    keep_first_shard(out)
    done = command(*arguments, other)
    assert done.returncode == 2
    assert f"input was {{images {inputs}}}, now {{images {other}}}" in done.stderr
    assert command(*arguments, inputs).returncode == 0


# Limits


@pytest.mark.parametrize("extension", [".csv", ".jsonl"])
def test_a_line_longer_than_the_limit_becomes_an_error_row(tmp_path, monkeypatch, extension):
    monkeypatch.setenv("REWARD_CORE_MAX_LINE_BYTES", "5000")
    prompts = [f"a red circle {i}" for i in range(1500)]
    prompts[700] = "long " * 20_000
    if extension == ".csv":
        text = "image,prompt\n" + "".join(f"{i}.png,{prompt}\n" for i, prompt in enumerate(prompts))
    else:
        text = "".join(json.dumps({"image": f"{i}.png", "prompt": p}) + "\n" for i, p in enumerate(prompts))
    source = Manifest(write(tmp_path / f"pairs{extension}", text)).open(tmp_path)
    rows = list(source.read(0))
    assert len(rows) == source.rows == 1500
    assert "the line is longer than 5,000 bytes (REWARD_CORE_MAX_LINE_BYTES sets another" in rows[700].error
    assert [row.prompt for row in rows if row.error is None] == prompts[:700] + prompts[701:]
    for start in (1, 512, 700, 1024, 1499):
        assert list(source.read(start)) == rows[start:]


def test_an_endless_line_becomes_one_error_row(tmp_path, monkeypatch):
    monkeypatch.setenv("REWARD_CORE_MAX_LINE_BYTES", "5000")
    first = json.dumps({"image": "0.png", "prompt": "a dog"})
    source = Manifest(write(tmp_path / "pairs.jsonl", first + "\n" + "[" * 100_000)).open(tmp_path)
    good, endless = source.read(0)
    assert good.error is None
    assert "the line is longer than 5,000 bytes" in endless.error


QUOTES = {"fields that open the next": 'a",",\n', "an open field": '"a\n', "a quote at the end": 'x,"\n'}


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=pytest.mark.slow) if kind == "fields that open the next" else kind
        for kind in QUOTES
    ],
)
def test_many_open_quotes_are_parsed_in_linear_time(tmp_path, kind):
    text = "image,prompt\n0.png,a dog\n" + QUOTES[kind] * 12_000
    manifest = write(tmp_path / "pairs.csv", text)
    started = time.process_time()
    source = Manifest(manifest).open(tmp_path)
    assert time.process_time() - started < 2
    rows = list(source.read(0))
    for start in (512, source.rows - 1):
        assert list(source.read(start)) == rows[start:]


def test_a_header_that_never_ends_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("REWARD_CORE_MAX_LINE_BYTES", "5000")
    with pytest.raises(InputError, match="its header is not valid CSV") as raised:
        Manifest(write(tmp_path / "pairs.csv", "image,prompt" + ',"a\n' * 10_000)).open(tmp_path)
    assert len(str(raised.value)) < 1000


@pytest.mark.slow
def test_prompts_of_many_lines_are_read_completely(tmp_path):
    prompt = "\n".join(f"line {i} of a long prompt, with commas" for i in range(1000))
    text = "image,prompt\n" + "".join(f'{i}.png,"{prompt}"\n' for i in range(600))
    source = Manifest(write(tmp_path / "pairs.csv", text)).open(tmp_path)
    assert [row.prompt for row in source.read(0)] == [prompt] * 600


@pytest.mark.parametrize("line", ["a\n", '"a,0.png\n', "a,b,c,d\n"])
def test_a_csv_whose_rows_do_not_match_the_header_is_refused(tmp_path, line):
    text = "image,prompt\n" + line * 999
    assert Manifest(write(tmp_path / "pairs.csv", text)).open(tmp_path).rows == 999
    with pytest.raises(InputError, match=r"none of its first 1,000 rows has 2 fields .* Check its quotes"):
        Manifest(write(tmp_path / "pairs.csv", text + line)).open(tmp_path)
    assert Manifest(write(tmp_path / "pairs.csv", f"{text}0.png,a dog\n{line}")).open(tmp_path).rows == 1001


def repeated(values: list, count: int = 0, prompts: list | None = None) -> pyarrow.Array:
    """Return a column that stores each value once: the first value, or the values of ``prompts``."""
    indices = [0] * count if prompts is None else [values.index(prompt) for prompt in prompts]
    return pyarrow.DictionaryArray.from_arrays(pyarrow.array(indices, pyarrow.int32()), pyarrow.array(values))


@pytest.mark.parametrize("form", [".csv", ".jsonl", ".parquet"])
def test_prompts_longer_than_any_model_reads_become_error_rows(tmp_path, form):
    prompts = ["a dog", "a" * 1_000_000, *["b" * 1_000_000] * 1000 * (form == ".parquet"), "a cat"]
    rows = [{"image": f"{i}.png", "prompt": prompt} for i, prompt in enumerate(prompts)]
    manifest = tmp_path / f"pairs{form}"
    if form == ".parquet":
        values = ["a dog", "a" * 1_000_000, "b" * 1_000_000, "a cat"]
        images = [row["image"] for row in rows]
        column = repeated(values, prompts=prompts)
        pyarrow.parquet.write_table(pyarrow.table({"image": images, "prompt": column}), manifest)
        assert manifest.stat().st_size < 200_000
    elif form == ".csv":
        write(manifest, "image,prompt\n" + "".join(f"{r['image']},{r['prompt']}\n" for r in rows))
    else:
        write(manifest, "".join(json.dumps(row) + "\n" for row in rows))
    started = time.process_time()
    read = list(Manifest(manifest).open(tmp_path).read(0))
    assert time.process_time() - started < 10
    assert [read[0].prompt, *{row.prompt for row in read[1:-1]}, read[-1].prompt] == ["a dog", None, "a cat"]
    words = "the prompt is too long: 1,000,000 characters, at most 262,144 are read"
    words = "field larger than field limit" if form == ".csv" else words
    assert all(words in row.error for row in read[1:-1])


@pytest.mark.slow
def test_equal_large_cells_of_parquet_are_decoded_one_by_one(tmp_path):
    size, before = 10_000_000, pyarrow.total_allocated_bytes()
    table = pyarrow.table({"image": repeated([bytes(size)], 64), "prompt": ["a dog"] * 64})
    path = tmp_path / "pairs.parquet"
    pyarrow.parquet.write_table(table, path, compression="zstd", store_schema=False)  # as other programs
    del table
    assert (tmp_path / "pairs.parquet").stat().st_size < 100_000
    allocated = []
    for row in Manifest(tmp_path / "pairs.parquet").open(tmp_path).read(0):
        assert len(row.content) == size
        allocated.append(pyarrow.total_allocated_bytes() - before)
    assert len(allocated) == 64
    assert max(allocated) < 400 * 2**20
