"""CLIP's tokenizer, with open_clip's text cleaning where a scorer needs it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer, normalizers
from torch import Tensor

from ...inputs.tokenizer import PromptTokenizer, check_prompts
from ...inputs.tokenizer_file import read_tokenizer
from .text_cleaning import clean_text

ENDS = ("<|startoftext|>", "<|endoftext|>")  # around every prompt


class ClipTokenizer(PromptTokenizer):
    """CLIP's byte-pair tokenizer, read from a tokenizer.json.

    Args:
        tokenizer: a fast tokenizer that adds the start and the end token.
        max_length: largest number of tokens per prompt, including both; the rest is cut off.
        cleaning: "ftfy" for the text cleaning of open_clip, "" for none.
    """

    def __init__(self, tokenizer: Tokenizer, max_length: int = 77, cleaning: str = ""):
        super().__init__(tokenizer, max_length)
        self.cleaning = cleaning
        if cleaning:  # open_clip changes nothing after its cleaning
            tokenizer.normalizer = normalizers.Lowercase()

    @classmethod
    def from_file(cls, path: Path, max_length: int = 77) -> ClipTokenizer:
        """Load a tokenizer.json."""
        return cls(read_tokenizer(path, "BPE", ENDS), max_length)

    def save(self, folder: Path) -> None:
        """Write tokenizer.json."""
        self.fast_tokenizer.save(str(folder / "tokenizer.json"))

    def __call__(
        self, prompts: Sequence[str], length: int | None = None, warn: bool = True
    ) -> tuple[Tensor, Tensor]:
        return super().__call__(self._cleaned(prompts), length, warn)

    def dropped_words(self, prompt: str) -> str:
        return super().dropped_words(self._cleaned([prompt])[0])

    def _cleaned(self, prompts: Sequence[str]) -> Sequence[str]:
        check_prompts(prompts)
        return [clean_text(prompt) for prompt in prompts] if self.cleaning else prompts
