"""Answers of CogVLM2 at tiny size, compared with the authors' rule (tests/data/parity_visionreward)."""

import copy
import sys

import pytest
import torch
from cogvlm2_reference import DATA, IMAGES, PAIRS, QUESTIONS, image_file, pixels_of, reference_model
from PIL import Image
from tokenizers import Tokenizer, models

from reward_core.errors import (
    CheckpointError,
    InputError,
    MissingExtraError,
    NonFiniteRewardError,
    PromptTypeError,
)
from reward_core.models.cogvlm2.answers import yes_log_probability
from reward_core.models.cogvlm2.int8 import quantize_int8
from reward_core.models.cogvlm2.packing import pack_questions
from reward_core.models.cogvlm2.prompts import QuestionTokenizer

TOKENIZER = Tokenizer.from_file(str(DATA / "tokenizer" / "tokenizer.json"))
YES, SPACE_YES, NO, END, TURN_END = 259, 275, 258, 369, 377


@pytest.fixture(scope="module")
def model():
    return reference_model()


@pytest.fixture(scope="module")
def double():
    model = reference_model()
    model.network.double()
    return model


def swapped(model, first, second):
    """Return a model that says and reads one token where the given model says and reads the other."""
    other = copy.deepcopy(model)
    for table in (other.network.language_model.embedding, other.network.language_model.lm_head):
        table.weight.data[[first, second]] = table.weight.data[[second, first]]
    return other


@torch.no_grad()
def decoded(model, image, question):
    """Return the text that the authors parse: greedy tokens, one pass for each, until end of text or four."""
    network, tokens = model.network, model.tokenizer.tokens
    ids, answer = model.tokenizer([question])[0], []
    while len(answer) < 4 and END not in answer:
        prefix = network.encode_images(pixels_of(model, image), tokens.begin_of_text)
        answer.append(int(network(prefix, pack_questions([ids + answer], tokens.yeses))[0, 0, 0].argmax()))
    return TOKENIZER.decode(answer, skip_special_tokens=False).strip()


def test_answers_are_those_of_the_authors_with_one_image_pass_each(model):
    before = model.network.prefix_passes
    answers = model.answers([image_file(name) for name in IMAGES], QUESTIONS, batch_size=4)
    assert model.network.prefix_passes - before == len(IMAGES)
    for i, pair in enumerate(PAIRS):
        assert answers[IMAGES.index(pair["picture"])][i] is pair["counts_as_yes"]
        assert decoded(model, pair["picture"], pair["question"]) == pair["response"]
    assert model.answers(Image.open(image_file("rgba")), QUESTIONS) == answers[IMAGES.index("rgba")]


@pytest.mark.parametrize(
    ("first", "second", "still_yes"),
    [
        (YES, SPACE_YES, True),  # " yes" is stripped
        (YES, TOKENIZER.token_to_id("Y"), False),
        (YES, TOKENIZER.token_to_id("!"), False),  # a third token wins
        (YES, NO, False),
        (END, TURN_END, False),  # a complete answer ends with end of text
        (END, TOKENIZER.token_to_id("."), False),
    ],
)
def test_only_yes_and_end_of_text_count_as_yes(model, first, second, still_yes):
    other, expected = swapped(model, first, second), [pair["counts_as_yes"] for pair in PAIRS]
    for name in ("wide", "square84"):
        asked = [i for i, pair in enumerate(PAIRS) if pair["picture"] == name]
        answers = other.answers_from_pixels(pixels_of(other, name), [QUESTIONS[i] for i in asked])[0]
        texts = [decoded(other, name, QUESTIONS[i]) for i in asked]
        assert answers == [text == "yes<|end_of_text|>" for text in texts]
        if still_yes:
            assert answers == [expected[i] for i in asked]
        elif second != NO:
            assert not any(answers)


def test_shared_images_and_batches_give_the_logits_of_single_questions(model):
    pixels = pixels_of(model, *IMAGES)
    with torch.no_grad():
        together = model.logits(pixels, QUESTIONS)
        for i in range(len(IMAGES)):
            alone = model.logits(pixels[i : i + 1], QUESTIONS)
            torch.testing.assert_close(together[i : i + 1], alone, atol=5e-5, rtol=0)
        for i, question in enumerate(QUESTIONS):
            alone = model.logits(pixels[:1], [question])
            torch.testing.assert_close(together[:1, i : i + 1], alone, atol=5e-5, rtol=0)


def test_expected_answers_sum_over_both_spellings_of_yes(model):
    image = torch.rand(1, 3, 50, 70, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model.expected_answers(image, QUESTIONS[:3])
        pixels = model.transform(image)
        network, ids = model.network, model.tokenizer(QUESTIONS[:3])

        def next_probabilities(question):
            prefix = network.encode_images(pixels, 368)
            return network(prefix, pack_questions([question], (YES, SPACE_YES)))[0, 0, 0].softmax(-1)

        for value, question in zip(expected[0], ids):
            first = next_probabilities(question)
            p = sum(first[t] * next_probabilities([*question, t])[END] for t in (YES, SPACE_YES))
            assert value.item() == pytest.approx(2 * p.item() - 1, abs=1e-5)


def test_gradients_are_those_of_finite_differences_with_and_without_checkpointing(double):
    pixels = pixels_of(double, "wide", "gray").double().requires_grad_(True)
    questions, tokens = QUESTIONS[:2], double.tokenizer.tokens

    def total(x):
        return yes_log_probability(double.logits(x, questions), tokens).exp().sum()

    (gradient,) = torch.autograd.grad(total(pixels), pixels)
    assert gradient.isfinite().all()
    assert all(image.abs().max() > 1e-6 for image in gradient)
    for index in [(0, 0, 10, 20), (0, 2, 83, 0), (1, 1, 40, 41)]:
        step = torch.zeros_like(pixels)
        step[index] = 1e-5
        with torch.no_grad():
            slope = (total(pixels + step) - total(pixels - step)) / 2e-5
        assert gradient[index].item() == pytest.approx(slope.item(), rel=1e-4, abs=1e-10)
    double.network.set_gradient_checkpointing(True)
    (again,) = torch.autograd.grad(total(pixels), pixels)
    double.network.set_gradient_checkpointing(False)
    torch.testing.assert_close(again, gradient, atol=1e-12, rtol=1e-9)


def test_images_in_0_to_1_have_gradients(model):
    images = torch.rand(2, 3, 60, 90, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    expected = model.expected_answers(images, QUESTIONS[:3])
    assert expected.shape == (2, 3)
    assert ((expected >= -1) & (expected <= 1)).all()
    expected.sum().backward()
    assert images.grad.isfinite().all()
    assert images.grad.abs().amax((1, 2, 3)).min() > 0


def test_failures_are_errors_and_never_no(model):
    broken = copy.deepcopy(model)
    broken.network.language_model.lm_head.weight.data[7, 3] = float("nan")
    with pytest.raises(NonFiniteRewardError, match="question 0 about image 0"):
        broken.answers(image_file("wide"), QUESTIONS)
    with pytest.raises(NonFiniteRewardError):
        broken.expected_answers(torch.zeros(1, 3, 84, 84), QUESTIONS)
    with pytest.raises(InputError, match="at least one image"):
        model.answers([], QUESTIONS)
    with pytest.raises(InputError, match="question 1: it is empty"):
        model.answers(image_file("wide"), ["Is it red?", " "])
    with pytest.raises(InputError, match="question 0: it has 3,006 tokens"):
        model.answers(image_file("wide"), ["z" * 3000])
    with pytest.raises(PromptTypeError):
        model.answers(image_file("wide"), "Is it red?")


def test_special_tokens_in_a_question_are_ordinary_text(model):
    (ids,) = model.tokenizer(["Is it <|end_of_text|>?"])
    assert END not in ids
    assert TOKENIZER.decode(ids) == "Question: Is it <|end_of_text|>? Short answer:"


def test_the_tokenizer_must_be_that_of_the_model():
    with pytest.raises(CheckpointError, match="Llama 3's AnswerTokens"):
        QuestionTokenizer(TOKENIZER, 128256, "tokenizer.json")
    with pytest.raises(CheckpointError, match="it has 384 tokens, the model has 383"):
        QuestionTokenizer(TOKENIZER, 383, "tokenizer.json")
    letters = Tokenizer(models.BPE({letter: i for i, letter in enumerate("noyes")}, []))
    with pytest.raises(CheckpointError, match=r"<\|begin_of_text\|> is missing"):
        QuestionTokenizer(letters, 384, "tokenizer.json")
    letters.add_special_tokens(["<|begin_of_text|>", "<|end_of_text|>"])
    with pytest.raises(CheckpointError, match="'yes' must be one token, it is 3"):
        QuestionTokenizer(letters, 384, "tokenizer.json")


def test_int8_weights_need_torchao_and_move_logits_little(model, monkeypatch):
    pixels = pixels_of(model, "wide")
    small = copy.deepcopy(model)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "torchao.quantization", None)
        with pytest.raises(MissingExtraError, match=r"pip install .*reward-core\[int8\]"):
            quantize_int8(small.network)
    pytest.importorskip("torchao")
    quantize_int8(small.network)
    with torch.no_grad():
        difference = small.logits(pixels, QUESTIONS[:2]) - model.logits(pixels, QUESTIONS[:2])
    assert 1e-4 < difference.abs().max() < 1
