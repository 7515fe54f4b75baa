"""The prompt of a ComfyUI picture: from its save node up to the sampler, and from there to the text.

Two forms of the graph are stored: "prompt", {id: {class_type, inputs}}, in which a link is [id, output], and
"workflow", the editor's nodes and links. The second is brought to the form of the first.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from ..errors import InputError
from .comfyui_text import Graph, inputs_of, is_link, text_at
from .infotext import plain

GIVEN = ("positive", "guider", "conditioning", "pipe")  # how a sampler gets its positive conditioning
MUTED, BYPASSED = 2, 4


def prompt_of(graph: Graph) -> str | None:
    """The text that the last sampler before the saved picture was given; None where none is found.

    Raises:
        InputError: several pictures are saved, of different prompts: which one this is, nobody knows; or a
            switch, or a change of the text, that cannot be followed.
    """
    found = []
    for save in _savers(graph):
        for sampler in _samplers(graph, save):
            text = _conditioning_text(graph, sampler)
            if text and plain(text, brackets=False):
                found.append(plain(text, brackets=False))
                break
    distinct = list(dict.fromkeys(found))
    if len(distinct) > 1:
        shown = "; ".join(repr(text[:60]) for text in distinct[:3])
        raise InputError(f"its graph saves pictures of {len(distinct)} prompts ({shown}): give the prompt")
    return distinct[0] if distinct else None


def from_workflow(workflow: dict[str, Any]) -> Graph:
    """The editor's form -> {id: {class_type, inputs}}; a bypassed node passes on what it was given."""
    links: dict[Any, list[Any]] = {}
    for link in workflow.get("links") or []:
        if isinstance(link, dict):
            links[link.get("id")] = [str(link.get("origin_id")), link.get("origin_slot", 0)]
        elif isinstance(link, list) and len(link) >= 3:
            links[link[0]] = [str(link[1]), link[2]]
    graph: Graph = {}
    for node in workflow.get("nodes") or []:
        if not isinstance(node, dict) or node.get("mode") == MUTED:
            continue
        inputs: dict[str, Any] = {}
        slots = [slot for slot in node.get("inputs") or [] if isinstance(slot, dict)]
        widgets = node.get("widgets_values")
        if isinstance(widgets, dict):
            inputs.update(widgets)
        elif isinstance(widgets, list):
            named = [slot["widget"].get("name") for slot in slots if isinstance(slot.get("widget"), dict)]
            strings = [value for value in widgets if isinstance(value, str)]
            if len(named) == len(widgets):
                inputs.update(zip(named, widgets))
            elif strings and any(word in str(node.get("type")) for word in ("Text", "String", "Primitive")):
                inputs["text"] = strings[0]  # older editors name no widgets; the text comes first
        inputs.update({slot.get("name"): links[slot["link"]] for slot in slots if slot.get("link") in links})
        kind = "Bypassed" if node.get("mode") == BYPASSED else str(node.get("type"))
        graph[str(node.get("id"))] = {"class_type": kind, "inputs": inputs}
    return graph


def _savers(graph: Graph) -> list[str]:
    """Nodes that end the graph with pictures: those that save, else those that show."""
    ends = {id: str(node.get("class_type")) for id, node in graph.items() if "images" in inputs_of(graph, id)}
    saving = [id for id, kind in ends.items() if "save" in kind.lower()]
    return saving or list(ends) or list(graph)


def _samplers(graph: Graph, start: str) -> list[str]:
    """Nodes above ``start`` that turn a positive conditioning into latents, the nearest first."""
    found, seen, queue = [], {start}, deque([start])
    while queue:
        id = queue.popleft()
        inputs = inputs_of(graph, id)
        samples = "sampler" in str(graph[id].get("class_type")).lower() or "noise_seed" in inputs
        if samples and any(name in inputs for name in GIVEN):
            found.append(id)
        for value in inputs.values():
            if is_link(graph, value) and value[0] not in seen:
                seen.add(value[0])
                queue.append(value[0])
    return found


def _conditioning_text(graph: Graph, sampler: str) -> str | None:
    inputs = inputs_of(graph, sampler)
    return next((text for name in GIVEN if (text := text_at(graph, inputs.get(name)))), None)
