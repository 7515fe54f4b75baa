"""Long prompts are tokenized only as far as needed; warnings point to the caller."""

import time
import warnings

import pytest
import torch
from PIL import Image

import reward_core as RM
from reward_core.errors import EmptyPromptWarning, PromptTruncatedWarning

LONG = {
    "words": "a red house by the sea, ",
    "one word": "abcdefghij",
    "signs": ".,;:!?",
    "Chinese": "红色的房子",
    "spaces first": " " * 40 + "cat ",
    "accents": "\u0301" * 50 + "cat ",
    "long words": "x" * 130 + " cat ",
    "lines": "red\nblue\t",
}


@pytest.fixture(scope="module")
def tiny():
    return RM.load("tiny", device="cpu")


@pytest.mark.parametrize("name", LONG)
@pytest.mark.filterwarnings("ignore::reward_core.errors.PromptTruncatedWarning")
def test_a_long_prompt_has_the_same_tokens_as_the_whole_text(tiny, name):
    prompt = LONG[name] * (60_000 // len(LONG[name]))
    tokenizer = tiny.tokenizer
    whole = tokenizer.fast_tokenizer.encode(prompt)
    most = tokenizer.max_length
    ids = whole.ids if len(whole.ids) <= most else [*whole.ids[: most - 1], whole.ids[-1]]
    assert tokenizer([prompt])[0][0].tolist() == ids
    if len(whole.ids) > most:
        dropped = tokenizer.dropped_words(prompt)
        assert prompt.rstrip().endswith(dropped)
        assert len(dropped) > 30_000
        assert tokenizer([prompt, "a cat"])[0][0].tolist() == ids
    else:
        assert tokenizer.dropped_words(prompt) == ""


@pytest.mark.slow
def test_a_prompt_of_megabytes_is_tokenized_fast(tiny):
    begun = time.process_time()
    for text in ("cat ", "cat"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ids, _ = tiny.tokenizer([text * (5_000_000 // len(text))])
        assert ids.shape[1] <= tiny.tokenizer.max_length
    assert time.process_time() - begun < 3


def test_a_warning_quotes_a_long_prompt_shortened(tiny):
    with pytest.warns(PromptTruncatedWarning, match=r"ignoring 'red house.* \.\.\. .*characters") as caught:
        tiny.tokenizer(["red house, " * 50_000])
    assert len(str(caught[0].message)) < 1500
    short = "red tree, " * 20
    with pytest.warns(PromptTruncatedWarning) as caught:
        tiny.tokenizer([short])
    assert str(caught[0].message).endswith(f"ignoring {tiny.tokenizer.dropped_words(short)!r} of {short!r}")


def test_warnings_appear_once_per_line_and_point_to_it(tiny):
    image, long = Image.new("P", (60, 60)), "red tree, " * 20
    image.info["transparency"] = bytes(range(256))
    calls = (
        lambda prompt: tiny.score(prompt, image),
        lambda prompt: tiny.inference_rank(prompt, [image]),
        lambda prompt: list(tiny.score_rows([prompt], [image])),
        lambda prompt: tiny.encode_prompts([prompt]),
        lambda prompt: tiny.rewards_from_pixels(torch.zeros(1, 3, 9, 9), [prompt]),
        lambda prompt: tiny.tokenizer([prompt]),
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for call in calls:
            for _ in range(3):
                call(long)
                call("")
    kinds = [warning.category for warning in caught]
    assert kinds.count(PromptTruncatedWarning) == kinds.count(EmptyPromptWarning) == len(calls)
    assert len(caught) == 2 * len(calls)
    assert {warning.filename for warning in caught} == {__file__}


def test_a_palette_with_transparency_is_scored_without_a_warning_and_unchanged(tiny):
    image = Image.effect_noise((90, 60), 80).convert("P")
    before = tiny.score("a cat", image)
    image.info["transparency"] = bytes(range(256))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert tiny.score("a cat", image) == pytest.approx(before, abs=1e-6)
    assert image.info["transparency"] == bytes(range(256))


def test_a_warning_about_a_clipped_image_points_to_the_caller(tiny, tmp_path):
    import numpy as np

    for i in range(3):
        Image.fromarray(np.full((48, 48), 9000 + i, dtype=np.uint16)).save(tmp_path / f"{i}.png")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        tiny.score("a cat", [tmp_path / f"{i}.png" for i in range(3)])  # decoded by threads
    assert [warning.filename for warning in caught] == [__file__] * 3
