"""Small files whose metadata would take minutes or gigabytes: read fast or refused."""

import json
import struct
import time
import zlib

import pytest
from tagged_images import INFOTEXT, save

from reward_core.errors import ImageError, RewardCoreError
from reward_core.metadata import infotext, read_prompt, read_score, read_score_keys, read_texts, write_score
from reward_core.metadata.banners import is_banner
from reward_core.metadata.comfyui_random import has_template
from reward_core.metadata.notations import invokeai, midjourney, novelai, swarmui

SECONDS = 2.0  # CPU time for each input; minutes without limits


def png_with(path, *chunks):
    data = save(path).read_bytes()
    extra = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks]
    path.write_bytes(data[:33] + b"".join(extra) + data[33:])
    return path


def text_chunk(keyword, text):
    return b"tEXt", keyword.encode() + b"\0" + text.encode()


def directories(count, at=8):
    """Return an EXIF block whose entries all point to their own directory."""
    entries = (struct.pack("<HHII", 0x8769, 4, 1, 8 if at == 8 else at + i) for i in range(count))
    return b"II*\0" + struct.pack("<IH", 8, count) + b"".join(entries)


def doubling(kind, inputs, count=40):
    """Return a graph in which each node repeats the text of the next node."""
    nodes = {"0": {"class_type": "SaveImage", "inputs": {"images": 1, "positive": ["1", 0]}}}
    for i in range(1, count):
        made = {name: [str(i + 1), 0] if value is None else value for name, value in inputs.items()}
        nodes[str(i)] = {"class_type": kind, "inputs": made}
    return json.dumps({**nodes, str(count): {"class_type": "String", "inputs": {"text": "a cat a"}}})


LONG = 100_000
BOMBS = {
    "EXIF directory that points at itself": [(b"eXIf", directories(5450))],
    "EXIF directories that overlap": [(b"eXIf", directories(4000, at=20))],
    "EXIF directory of the most entries": [(b"eXIf", directories(65535))],
    "name of a setting without end": [text_chunk("parameters", "cat\nSteps: 20, " + "a" * LONG)],
    "name of a setting with signs": [text_chunk("parameters", "cat\nSteps: 20, " + "a-" * (LONG // 4))],
    "spaces": [text_chunk("parameters", "cat\nSteps: 20, " + " " * LONG + "!")],
    "weight without end": [text_chunk("parameters", f"(cat:{'1' * LONG}x)\nSteps: 20, A: b")],
    "time of a change without end": [text_chunk("parameters", f"[a:b:{'9' * LONG}x]\nSteps: 20, A: b")],
    "one setting many times": [text_chunk("parameters", "cat\nSteps: 20, " + "a Score: 1, " * 9000)],
    "brackets that never close": [text_chunk("parameters", "[" * 900 + "a " * LONG + "\nSteps: 20, A: b")],
    "text longer than any prompt": [text_chunk("parameters", "(a) " * 300_000 + "\nSteps: 20, A: b")],
    "plain text longer than any prompt": [text_chunk("Description", "a cat, " * 300_000)],
    "steps of many digits": [text_chunk("parameters", f"cat\nSteps: {'9' * 5000}, A: b")],
    "dream command": [text_chunk("Dream", "a" + " -b c" * 20_000 + " ! ?")],
    "lines without end": [text_chunk("Comment", "a" + "\n" * LONG + "b;" + "\n" * LONG)],
    "XMP items": [
        text_chunk("XML:com.adobe.xmp", "<dc:description>" + "<rdf:li" * LONG + "</dc:description>")
    ],
    "XMP items that never end": [
        text_chunk("XML:com.adobe.xmp", "<dc:description>" + "<rdf:li>" * LONG + "</dc:description>")
    ],
    "joined texts that double": [text_chunk("prompt", doubling("Concat", {"text_a": None, "text_b": None}))],
    "replaced texts that grow": [
        text_chunk("prompt", doubling("Replace", {"string": None, "find": "a", "replace": "a" * 1000}, 9))
    ],
    "conditionings that double": [
        text_chunk("prompt", doubling("Both", {"conditioning_1": None, "conditioning_2": None}))
    ],
    "one part many times": [
        text_chunk(
            "prompt",
            json.dumps(
                {
                    "0": {"class_type": "SaveImage", "inputs": {"images": 1, "positive": ["1", 0]}},
                    "1": {
                        "class_type": "Join",
                        "inputs": {f"text{i:02}": "a" * 5000 for i in range(99)}
                        | {"delimiter": "b" * 200_000},
                    },
                }
            ),
        )
    ],
    "save nodes": [
        text_chunk(
            "prompt",
            json.dumps(
                {
                    str(i): {"class_type": "SaveImage", "inputs": {"images": [str(i + 1), 0]}}
                    for i in range(3000)
                }
            ),
        )
    ],
    "inputs that are a number": [
        text_chunk("workflow", json.dumps({"nodes": [{"id": 1, "inputs": 5}], "links": 7}))
    ],
    "nodes that are a number": [text_chunk("prompt", json.dumps({"prompt": {}, "workflow": {"nodes": 5}}))],
    "names that are not texts": [
        text_chunk(
            "workflow",
            json.dumps(
                {
                    "nodes": [
                        {
                            "id": 1,
                            "inputs": [{"name": ["x"], "link": 1, "widget": {"name": [1]}}],
                            "widgets_values": [1],
                        }
                    ],
                    "links": [[1, 1, 0]],
                }
            ),
        )
    ],
    "input with a number of many digits": [
        text_chunk(
            "prompt",
            json.dumps(
                {
                    "0": {"class_type": "SaveImage", "inputs": {"images": 1, "positive": ["1", 0]}},
                    "1": {"class_type": "Switch", "inputs": {"a" + "1" * 5000: "cat", "select": 1}},
                }
            ),
        )
    ],
    "nested JSON": [text_chunk("prompt", "[" * LONG), text_chunk("workflow", '{"a":' * LONG)],
    "XMP with a character of many digits": [
        text_chunk("XML:com.adobe.xmp", f"<dc:description>&#{'9' * 5000};</dc:description>")
    ],
    "names of scores": [text_chunk(f"{i} Score", "1") for i in range(3000)],
}


def error_of(read, *arguments):
    """Return the error of this project that a call raises, or None."""
    try:
        read(*arguments)
    except RewardCoreError as error:
        return error
    return None


@pytest.mark.parametrize("name", BOMBS)
def test_metadata_is_read_fast_or_raises_image_error(tmp_path, name):
    path = png_with(tmp_path / "a.png", *BOMBS[name])
    for use in (
        read_texts,
        read_prompt,
        read_score_keys,
        lambda image: write_score(image, "a Score", 1.5),
        lambda image: read_score(image, "a Score"),
    ):
        begun = time.process_time()
        error = error_of(use, path)
        assert error is None or (error.image == str(path) and 0 < len(error.reason) < 1000)
        assert time.process_time() - begun < SECONDS


@pytest.mark.parametrize(
    ("read", "text"),
    [
        (is_banner, "flux " + "1" * 60 + "!"),
        (is_banner, "pixel" + " 11" * 40 + "!"),
        (is_banner, "1." * 150 + "!"),
        (has_template, "{" + "|" * LONG),
        (has_template, "{%" * LONG),
        (novelai, "9" * LONG + "x"),
        (invokeai, '("a"' + '").and(' * 30_000 + "x"),
        (swarmui, "<fromto:a," + " " * LONG),
        (swarmui, f"(a:{'1' * LONG}x)"),
        (midjourney, "a" + " " * LONG + "x"),
        (infotext.plain, "(" * 500 + "a" * LONG + ")" * 500),
    ],
)
def test_notations_are_read_in_linear_time(read, text):
    begun = time.process_time()
    error_of(read, text)
    assert time.process_time() - begun < SECONDS


def test_all_zipped_texts_of_an_image_share_one_limit(tmp_path, monkeypatch):
    packed = zlib.compress(bytes(1_000_000), 9)
    path = png_with(tmp_path / "a.png", *[(b"zTXt", b"k%d\0\0" % i + packed) for i in range(9)])
    assert {f"k{i}" for i in range(9)} <= set(read_texts(path))
    monkeypatch.setenv("REWARD_CORE_MAX_METADATA_TEXT", "5000000")
    for use in (read_texts, read_prompt, lambda image: write_score(image, "a Score", 1.5)):
        with pytest.raises(ImageError, match="its texts unpack to more than 5,000,000 bytes"):
            use(path)


def test_a_jpeg_with_a_directory_that_points_at_itself_keeps_its_score(tmp_path):
    path = save(tmp_path / "a.jpg")
    data, block = path.read_bytes(), b"Exif\0\0" + directories(3000)
    path.write_bytes(data[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + data[2:])
    write_score(path, "a Score", 1.5)
    assert read_score(path, "a Score") == 1.5


def test_the_limits_allow_long_metadata_of_real_images(tmp_path):
    long = "a red circle, " * 2000
    path = save(
        tmp_path / "a.png", {"parameters": INFOTEXT.replace("a red circle", long), "Other": "x" * 10**6}
    )
    assert read_prompt(path).text.startswith("a red circle, a red circle")
    write_score(path, "a Score", 1.5)
    assert read_score(path, "a Score") == 1.5


def test_a_repeated_setting_is_written_once():
    line = "a cat\nSteps: 20, K: 1, Seed: 3, K: 2, Size: 8x8, K: 3"
    assert infotext.put(line, "K", "9") == "a cat\nSteps: 20, Seed: 3, Size: 8x8, K: 9"
    assert infotext.put("a cat\nSteps: 20, K: 1, K: 2", "K", "9") == "a cat\nSteps: 20, K: 9"
