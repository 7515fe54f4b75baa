"""A vision-language model in this process, through transformers."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from PIL import Image

from ...errors import CheckpointError, InputError
from ...files.foreign_bytes import guarded, reason
from ...scoring.batching import checked_batch_size, in_batches
from ...scoring.device import Device, usable_device
from ...scoring.model_source import hub_commit
from .answers import Answer, Outcome, Question, word_of

if TYPE_CHECKING:
    import torch

QUESTIONS_AT_ONCE = {"cpu": 8}  # other devices: 64


class LocalVLM:
    """A model of a folder, loaded when it is first asked.

    Answers are decoded greedily. The model computes in the dtype of its weights. Images are read from the
    same JPEG files that a server gets.

    Args:
        folder: folder with weights, tokenizer and processor, as on the hub.
        device: device to compute on (default: "cuda" if available, else "mps", else "cpu").
        name: name of the model (default: the folder).

    Raises:
        InputError: the device cannot be used.
        CheckpointError: the folder is not that of a model.
    """

    def __init__(self, folder: Path, device: Device = None, name: str = ""):
        self.folder, self.device = folder, usable_device(device)
        self.name = name or str(folder.resolve())
        self._lock = Lock()
        self.weights = tuple(sorted(folder.glob("*.safetensors")))
        for name in ("config.json", "*.safetensors"):
            if not any(folder.glob(name)):
                raise CheckpointError(
                    f"Cannot load the VLM from '{folder}': it has no {name}. Give a folder with the files of "
                    "its hub repository."
                )

    @cached_property
    def identity(self) -> Mapping[str, Any]:
        revision = hub_commit(self.folder / "config.json") or _state_of(self.folder)
        return {"local": self.name, "revision": revision, "transformers": version("transformers")}

    @property
    def questions_at_once(self) -> int:
        return QUESTIONS_AT_ONCE.get(self.device.type, 64)

    def answers(self, questions: Sequence[Question], batch_size: int | None = None) -> Iterator[Outcome]:
        """Yield the answer of each question, in order.

        Args:
            questions: the questions, all with the same max_tokens and words.
            batch_size: questions in a batch (default: 8 on a CPU, 64 on a GPU); halved when memory runs out.

        Raises:
            CheckpointError: the model cannot be loaded.
            InputError: the words are not single tokens of the model.
        """
        size = checked_batch_size(batch_size, self.device)
        answered = self._generated if questions[0].words is None else self._probabilities

        def batch(indices: range) -> list[Outcome]:
            with self._lock:
                return _outcomes(answered, questions[indices.start : indices.stop])

        for answers in in_batches(batch, len(questions), size):
            yield from answers

    @cached_property
    def model(self) -> Any:
        """The model, in evaluation mode."""
        from transformers import AutoModelForImageTextToText

        with guarded(self._not_loaded):
            model = AutoModelForImageTextToText.from_pretrained(
                self.folder, dtype="auto", local_files_only=True, use_safetensors=True
            )
            return model.to(self.device).eval().requires_grad_(False)

    @cached_property
    def processor(self) -> Any:
        """The processor of texts and images."""
        from transformers import AutoProcessor

        with guarded(self._not_loaded):
            try:
                processor = AutoProcessor.from_pretrained(self.folder, local_files_only=True)
            except ImportError:
                if find_spec("torchvision") is not None:
                    raise
                processor = _image_processor(self.folder)  # only videos need torchvision
        if not hasattr(processor, "image_processor"):  # that of a model of texts is a tokenizer
            raise self._not_loaded(ValueError("it is not a model that reads images"))
        return processor

    def _generated(self, questions: Sequence[Question]) -> list[Answer]:
        import torch

        inputs = self._inputs(questions)
        start, most = inputs["input_ids"].shape[1], questions[0].max_tokens
        settings = {"do_sample": False, "num_beams": 1, "temperature": None, "top_p": None, "top_k": None}
        with torch.inference_mode():
            tokens = self.model.generate(**inputs, max_new_tokens=most, **settings)[:, start:]  # (B, T)
        ends = self._end_tokens()
        texts = self.processor.batch_decode(
            tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return [Answer(text, complete=not ends.isdisjoint(row)) for text, row in zip(texts, tokens.tolist())]

    def _probabilities(self, questions: Sequence[Question]) -> list[Answer]:
        import torch

        words = questions[0].words
        assert words is not None  # see answers
        first, second = (self._spellings(word) for word in words)
        inputs = self._inputs(questions)
        with torch.inference_mode():
            logits = self.model(**inputs, logits_to_keep=1).logits[:, -1].float()  # (B, V)
        pairs = torch.stack([logits[:, ids].logsumexp(1) for ids in (first, second)], dim=1)  # (B, 2)
        best = self.processor.batch_decode(logits.argmax(1)[:, None])
        probabilities = pairs.softmax(1)[:, 0].tolist()
        return [Answer(text, probability=p) for text, p in zip(best, probabilities)]

    def _inputs(self, questions: Sequence[Question]) -> dict[str, torch.Tensor]:
        """Return the inputs of a batch, padded on the left."""
        with guarded(self._not_loaded):  # a model without a template of conversations
            texts = [self._chat(question) for question in questions]
        images = [[Image.open(io.BytesIO(jpeg)).convert("RGB") for jpeg in q.images] for q in questions]
        settings = {"padding": True, "padding_side": "left", "return_tensors": "pt"}
        try:
            inputs = self.processor(text=texts, images=images, **settings)
        except ValueError as error:
            raise _RefusedError(f"Cannot ask {self.name!r} about the image: {reason(error)}.") from error
        return {
            name: value.to(self.device, self.model.dtype if value.is_floating_point() else None)
            for name, value in inputs.items()
        }

    def _chat(self, question: Question) -> str:
        """Return the text of a conversation with one question: the images, then the text."""
        content = [*({"type": "image"} for _ in question.images), {"type": "text", "text": question.text}]
        # Only templates with this setting have thoughts.
        thinking = "enable_thinking" in str(self.processor.chat_template)
        return self.processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=False,
            **({"enable_thinking": False} if thinking else {}),
        )

    def _end_tokens(self) -> set[int]:
        ends = self.model.generation_config.eos_token_id
        return {ends} if isinstance(ends, int) else set(ends or ())

    def _spellings(self, word: str) -> list[int]:
        """Return the tokens that are a word, in any case and with or without a space."""
        found = self._tokens_by_word.get(word_of(word))
        if not found:
            raise InputError(
                f"Cannot compute the probability of {word!r} with {self.name!r}: it is not a single token of "
                "the model. Choose other labels."
            )
        return found

    @cached_property
    def _tokens_by_word(self) -> dict[str, list[int]]:
        tokenizer = self.processor.tokenizer
        words: dict[str, list[int]] = {}
        for token, index in tokenizer.get_vocab().items():
            words.setdefault(word_of(tokenizer.convert_tokens_to_string([token])), []).append(index)
        return words

    def _not_loaded(self, error: BaseException) -> CheckpointError:
        return CheckpointError(f"Cannot load the VLM from '{self.folder}': {reason(error)}.")


class _RefusedError(InputError):
    """A question with an image that the processor does not accept, such as one that is too narrow."""


def _outcomes(
    answered: Callable[[Sequence[Question]], list[Answer]], questions: Sequence[Question]
) -> list[Outcome]:
    """Return the answers of a batch, with an error for each question that the processor refuses."""
    try:
        return [*answered(questions)]
    except _RefusedError as error:
        if len(questions) == 1:
            return [error]
    return [outcome for question in questions for outcome in _outcomes(answered, [question])]


def _image_processor(folder: Path) -> Any:
    """Return the processor of a model for texts and images, without its processor of videos."""
    from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    images = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    complete: Any = PROCESSOR_MAPPING[type(config)]

    class ImageProcessor(complete):
        def check_argument_for_proper_class(self, name: str, argument: Any) -> Any:
            return None if argument is None else super().check_argument_for_proper_class(name, argument)

    return ImageProcessor(image_processor=images, tokenizer=tokenizer, chat_template=_chat_template(folder))


def _chat_template(folder: Path) -> str | None:
    """Return the chat template of a folder; None if only the tokenizer has one."""
    from ...files.json_file import read_json

    if (folder / "chat_template.jinja").is_file():
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    path = folder / "chat_template.json"
    return read_json(path)["chat_template"] if path.is_file() else None


def _state_of(folder: Path) -> str:
    """Return names, sizes and times of the files of a folder; they change when the model changes."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    states = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return hashlib.sha256(repr(states).encode()).hexdigest()
