"""Reading of the text of a conditioning in a ComfyUI graph.

The graph is followed through encoders, joins, switches and changes of texts. The class of a node and the
names of its inputs, which are similar in most extensions, show what it does. If several texts remain, it is
an error, because a score for the wrong prompt is worse than no score.
"""

from __future__ import annotations

import re
from functools import cached_property
from typing import Any

from ..errors import InputError
from ..files.limits import MAX_GRAPH_TEXT
from . import comfyui_random

Graph = dict[str, dict[str, Any]]

# Inputs with the conditioning or the text that a node changes.
FIRST = ("positive", "conditioning", "conditioning_to", "cond", "guider", "pipe")
TEXTS = (
    "text", "clip_l", "clip_g", "prompt", "user_prompt", "positive", "positive_prompt", "text_positive",
    "string", "value", "text_a", "text1", "string1", "wildcard_text",
)  # fmt: skip
# Inputs with two parts of one text (conditionings only if they are not averaged).
PAIRS = (("text_g", "text_l"), ("conditioning_to", "conditioning_from"), ("conditioning_1", "conditioning_2"))
NO_TEXT = (
    "clip", "model", "vae", "image", "images", "pixels", "mask", "samples", "latent", "latent_image",
    "control_net", "clip_vision_output", "style_model", "system_prompt", "seed", "noise_seed",
    "width", "height",
)  # fmt: skip
GENERATED = (
    "llm",
    "gpt",
    "ollama",
    "gemini",
    "florence",
    "caption",
    "interrogat",
    "joytag",
    "wd14",
    "chat",
    "vlm",
    "describe",
    "moondream",
)
JOINS = ("concat", "join", "combine", "stringfunction")
SELECTORS = ("select", "index", "input", "selected", "choice", "switch")
_NUMBER = re.compile(r"(?<!\d)\d{1,9}$")
_NUMBERED = re.compile(r"(?:text|string|str|input|prompt)_?(?:[a-z]|\d{1,2})")


def is_link(graph: Graph, value: Any) -> bool:
    """Return whether the value of an input is a link to another node: [id, output]."""
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and value[0] in graph


def inputs_of(graph: Graph, id: str) -> dict[str, Any]:
    """Return the inputs of a node."""
    inputs = graph[id].get("inputs")
    return inputs if isinstance(inputs, dict) else {}


def text_at(
    graph: Graph, value: Any, resolved: bool = True, reading: GraphReading | None = None
) -> str | None:
    """Return the text of a value, which is a string or a link, or None.

    Args:
        graph: the graph.
        value: value of an input.
        resolved: False if "{red|blue}" may be a template even in nodes that do not resolve templates.
        reading: texts of the graph that were read before.

    Raises:
        InputError: several texts could have been used, a text is changed by a pattern or has random parts, or
            the texts have more characters than MAX_GRAPH_TEXT.
    """
    text = (reading or GraphReading(graph)).text(value)
    if text and not resolved and comfyui_random.has_template(text):
        raise InputError("its workflow has only a template of the prompt. Give the prompt")
    return text


class GraphReading:
    """The texts of the nodes in a graph, each read once."""

    def __init__(self, graph: Graph):
        self.graph = graph
        self.known: dict[tuple[str, str], str | None] = {}  # texts of links that were followed
        self.left = MAX_GRAPH_TEXT.value  # number of characters that may still be read

    def text(self, value: Any) -> str | None:
        """Return the text of a value, which is a string or a link, or None."""
        if isinstance(value, str):
            return value.strip() or None
        if not is_link(self.graph, value):
            return None
        id, link = value[0], (value[0], repr(value[1]))
        if link not in self.known:
            self.known[link] = None  # a cycle has no text
            kind = str(self.graph[id].get("class_type"))
            text = self._displayed(kind, value) or self._node(kind, inputs_of(self.graph, id))
            self._spend(len(text or ""))
            self.known[link] = text
        return self.known[link]

    def _spend(self, characters: int) -> None:
        self.left -= characters
        if self.left < 0:
            most = f"more than {MAX_GRAPH_TEXT.value:,} characters"
            raise InputError(f"the texts of its graph have {most} ({MAX_GRAPH_TEXT.advice}). Give the prompt")

    @cached_property
    def _displayed_texts(self) -> dict[str, str]:
        """Texts that nodes displayed, by the link to the text."""
        displayed: dict[str, str] = {}
        for id in self.graph:
            inputs = inputs_of(self.graph, id)
            if isinstance(inputs.get("text_0"), str):
                for value in inputs.values():
                    if is_link(self.graph, value):
                        displayed.setdefault(repr(value), inputs["text_0"].strip())
        return displayed

    def _displayed(self, kind: str, link: list[Any]) -> str | None:
        """Return a text that was computed while the graph ran, if a node displayed it."""
        if not comfyui_random.is_named(kind, (*GENERATED, *comfyui_random.CHOOSES, *comfyui_random.INVENTS)):
            return None
        return self._displayed_texts.get(repr(link)) or None

    def _node(self, kind: str, inputs: dict[str, Any]) -> str | None:
        if isinstance(inputs.get("text_0"), str) and inputs["text_0"].strip():
            return inputs["text_0"].strip()  # the text displayed while the graph ran
        if (populated := comfyui_random.populated(kind, inputs)) is not None:
            return populated or None
        comfyui_random.refuse_templates(kind, inputs)
        return comfyui_random.check(kind, inputs, self._output(kind, inputs))

    def _output(self, kind: str, inputs: dict[str, Any]) -> str | None:
        """Return the output text of a deterministic node."""
        small = kind.lower()
        if any(word in small for word in GENERATED):
            return None  # generated while the graph ran, and not stored
        if "switch" in small or "ifelse" in small:
            return self._switched(kind, inputs)
        if "find" in inputs and "replace" in inputs:
            string, find, new = (self.text(inputs.get(name)) or "" for name in ("string", "find", "replace"))
            if not find:
                return string or None
            self._spend(len(string) + string.count(find) * len(new))
            return string.replace(find, new)
        if "regex_pattern" in inputs or inputs.get("action") == "replace":
            raise InputError(f"its graph changes the prompt with a pattern ({kind}). Give the prompt")
        if any(word in small for word in JOINS) and (joined := self._joined(inputs)):
            return joined
        if text := self.text(inputs.get("t5xxl")):
            return text  # SD3 and FLUX read this text as sentences
        for names in PAIRS:
            if set(names) <= set(inputs) and "average" not in small:
                return _together([self.text(inputs[name]) for name in names])
        for name in FIRST:
            if name in inputs and (text := self.text(inputs[name])):
                return text
        # An encoder may have the same text, or parts of it, in several inputs. Return the longest.
        texts = [text for name in TEXTS if name in inputs and (text := self.text(inputs[name]))]
        if texts:
            return max(texts, key=len)
        return self._only(kind, self._links(inputs))  # reroutes, bypassed nodes, nodes of extensions

    def _joined(self, inputs: dict[str, Any]) -> str | None:
        parts = [self.text(value) for name, value in inputs.items() if _NUMBERED.fullmatch(name)]
        separators = [inputs[key] for key in ("delimiter", "separator") if isinstance(inputs.get(key), str)]
        separator = (separators or [" "])[0].replace("\\n", "\n")
        self._spend(sum(len(part or "") + len(separator) for part in parts))
        return separator.join(part for part in parts if part) or None

    def _switched(self, kind: str, inputs: dict[str, Any]) -> str | None:
        """Return the text that a switch selects."""
        branches = {name: v for name, v in inputs.items() if is_link(self.graph, v) or isinstance(v, str)}
        if "any switch" in kind.lower():  # selects the first input with a value
            return next((text for value in branches.values() if (text := self.text(value))), None)
        on = next((value for value in inputs.values() if isinstance(value, bool)), None)
        sides = {side: [name for name in branches if side in name.lower()] for side in ("true", "false")}
        if all(sides.values()):
            names = sides["true"] + sides["false"] if on is None else sides[str(on).lower()]
            return self._only(kind, [branches[name] for name in names])
        number = next((v for name, v in inputs.items() if name.lower() in SELECTORS and type(v) is int), None)
        numbered = {int(match[0]): v for name, v in branches.items() if (match := _NUMBER.search(name))}
        if number in numbered:
            return self.text(numbered[number])
        return self._only(kind, self._links(inputs))

    def _links(self, inputs: dict[str, Any]) -> list[Any]:
        return [
            value
            for name, value in inputs.items()
            if is_link(self.graph, value) and name not in NO_TEXT and not str(name).startswith("neg")
        ]

    def _only(self, kind: str, values: list[Any]) -> str | None:
        texts = list(dict.fromkeys(text for value in values if (text := self.text(value))))
        if len(texts) > 1:
            examples = "; ".join(repr(text[:60]) for text in texts[:3])
            raise InputError(f"its graph does not say which text {kind} used ({examples}). Give the prompt")
        return texts[0] if texts else None


def _together(texts: list[str | None]) -> str | None:
    """Return both texts, or only the longer one if it contains the other."""
    first, second = ((text or "").strip() for text in texts)
    if second in first or first in second:
        return max(first, second, key=len) or None
    return f"{first.rstrip(' ,')}, {second}"
