"""Read a model's tokenizer.json after checking that it is safe.

A tokenizer.json can define any pipeline: regular expressions that take minutes, replacements that make a text
a million times longer, ids without an embedding. Only WordPiece (BERT) and BPE (CLIP) are supported.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from ..errors import CheckpointError
from ..files.foreign_bytes import guarded, read_regular, reason
from ..files.json_file import parse_json
from ..files.limits import MB, Limit

# Largest tokenizer.json. CLIP's has 2.2 MB; 16 MB of the shortest tokens take about 500 MB of memory.
MAX_TOKENIZER_BYTES = Limit("MAX_TOKENIZER_BYTES", 16 * MB)
MAX_WORD = 100  # characters per word, as in BERT; WordPiece takes quadratic time
MAX_STEPS = 16  # steps of a normalizer or a pre-tokenizer; CLIP's have 3
MAX_PATTERN = 400  # characters of a regular expression; CLIP's has 100
# The patterns of Qwen's and Llama 3's tokenizers, which differ in the number of digits per token. They have
# groups, which the general check refuses, but take linear time.
_LINEAR_PATTERNS = {
    rf"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    for digits in (r"\p{N}", r"\p{N}{1,3}")
}

# Steps that take linear time and keep the length of a text. Replace and Split have checks of their own below.
_NORMALIZERS = {"NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "Strip", "BertNormalizer"}
_PRE_TOKENIZERS = {"BertPreTokenizer", "ByteLevel", "Whitespace", "WhitespaceSplit", "Punctuation"}
_PROCESSORS = {"BertProcessing", "RobertaProcessing", "TemplateProcessing", "ByteLevel"}


def read_tokenizer(path: Path, model: str, ends: tuple[str, str] | None = None) -> Tokenizer:
    """Load a tokenizer.json.

    Args:
        path: the file.
        model: type of tokenizer that the weights were trained with: "WordPiece" or "BPE".
        ends: first and last token of every prompt, to check; None for no check.

    Raises:
        CheckpointError: not a tokenizer of this type, or one that is not safe to use.
    """
    with guarded(lambda error: CheckpointError(f"Cannot read a tokenizer from '{path}': {reason(error)}.")):
        content = parse_json(read_regular(path, MAX_TOKENIZER_BYTES).decode())
        _check(content, model)
        # This package truncates and pads. Invalid values would fail at every prompt.
        text = json.dumps({**content, "truncation": None, "padding": None}, ensure_ascii=False)
        tokenizer = Tokenizer.from_str(text)
        if ends is not None:
            _check_ends(tokenizer, ends)
    return tokenizer


def _check(content: Any, model: str) -> None:
    """Raise ValueError if a tokenizer is not supported."""
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        raise ValueError("expected a JSON object with a 'model'")
    kind = content["model"].get("type", model)
    if kind != model:
        raise ValueError(f"expected a model of type {model!r}, got {kind!r:.40}")
    vocabulary = _vocabulary(content)
    unknown = content["model"].get("unk_token")
    if (model == "WordPiece" and unknown is None) or (unknown is not None and unknown not in vocabulary):
        raise ValueError(f"its token for unknown words, {unknown!r:.40}, is not in its vocabulary")
    longest = content["model"].get("max_input_chars_per_word", 100)
    if not isinstance(longest, int) or not 1 <= longest <= MAX_WORD:
        raise ValueError(f"max_input_chars_per_word must be 1 to {MAX_WORD}, got {longest!r:.40}")
    for step in _steps(content.get("normalizer"), "normalizers"):
        _check_normalizer(step)
    for step in _steps(content.get("pre_tokenizer"), "pretokenizers"):
        _check_pre_tokenizer(step)
    for step in _steps(content.get("post_processor"), "processors"):
        if step.get("type") not in _PROCESSORS:
            raise ValueError(f"its post-processor {step.get('type')!r:.40} is not supported")


def _vocabulary(content: Mapping[str, Any]) -> set[str]:
    """Return all tokens after checking that their ids are 0, 1, 2 and so on."""
    vocabulary = content["model"].get("vocab")
    added = content.get("added_tokens") or []
    if not isinstance(vocabulary, dict) or not isinstance(added, list):
        raise ValueError("its vocabulary must be an object, and its added tokens a list")
    ids = dict(vocabulary)
    for token in added:
        if not isinstance(token, dict) or not isinstance(token.get("content"), str) or not token["content"]:
            raise ValueError(f"an added token must have a text, got {token!r:.80}")
        if ids.setdefault(token["content"], token.get("id")) != token.get("id"):
            raise ValueError(f"the token {token['content']!r:.40} has two ids")
    numbers = set(ids.values()) if all(type(number) is int for number in ids.values()) else set()
    if not ids or numbers != set(range(len(ids))):
        raise ValueError(f"the ids of its {len(ids):,} tokens must be 0 to {len(ids) - 1}, each once")
    return set(ids)


def _steps(part: Any, key: str) -> list[dict[str, Any]]:
    """Return the steps of a part of the pipeline; for a sequence, the steps in it."""
    if part is None:
        return []
    if not isinstance(part, dict):
        raise ValueError(f"a step of its pipeline must be an object, got {part!r:.80}")
    steps = part.get(key) if part.get("type") == "Sequence" else [part]
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        raise ValueError(f"a sequence must be a list of objects, got {steps!r:.80}")
    if len(steps) > MAX_STEPS:
        raise ValueError(f"it has {len(steps):,} {key}, at most {MAX_STEPS} are supported")
    return steps


def _check_normalizer(step: Mapping[str, Any]) -> None:
    if step.get("type") == "Replace":
        content = step.get("content")
        if not isinstance(content, str) or len(content) > 1:
            raise ValueError(f"its normalizer makes texts longer, by inserting {content!r:.40}")
        _check_pattern(step.get("pattern"))
    elif step.get("type") not in _NORMALIZERS:
        raise ValueError(f"its normalizer {step.get('type')!r:.40} is not supported")


def _check_pre_tokenizer(step: Mapping[str, Any]) -> None:
    if step.get("type") == "Split":
        _check_pattern(step.get("pattern"))
    elif step.get("type") not in _PRE_TOKENIZERS:
        raise ValueError(f"its pre-tokenizer {step.get('type')!r:.40} is not supported")


def _check_pattern(pattern: Any) -> None:
    """Raise ValueError for a regular expression that can take more than linear time.

    Without groups, an alternative with one repetition takes linear time. CLIP's pattern has only such ones.
    """
    text = next(iter(pattern.values()), None) if isinstance(pattern, dict) and len(pattern) == 1 else None
    if not isinstance(text, str) or not 1 <= len(text) <= MAX_PATTERN:
        raise ValueError(f"a pattern must have 1 to {MAX_PATTERN} characters, got {pattern!r:.80}")
    if "String" in pattern or text in _LINEAR_PATTERNS:
        return
    plain = re.sub(r"\\[pP]\{\^?\w+\}|\\.", "x", text)  # \p{L} and escapes match one character each
    plain = re.sub(r"\[[^\[\]]*\]", "x", plain)
    if re.search(r"[()\[\]{}]", plain) or any(len(re.findall(r"[*+?]", p)) > 1 for p in plain.split("|")):
        raise ValueError(f"its regular expression may be slow and is not supported: {text!r:.80}")


def _check_ends(tokenizer: Tokenizer, ends: tuple[str, str]) -> None:
    first, last = (tokenizer.token_to_id(token) for token in ends)
    inner = tokenizer.encode("a", add_special_tokens=False).ids
    if None in (first, last) or tokenizer.encode("a").ids != [first, *inner, last]:
        raise ValueError(f"it must add {ends[0]} before and {ends[1]} after every prompt")
