"""The prompt of a ComfyUI image: from its save node up to the sampler, and from there to the text.

Two forms of the graph are stored: "prompt", {id: {class_type, inputs}}, in which a link is [id, output], and
"workflow", the editor's nodes and links. The second is brought to the form of the first.
"""

from __future__ import annotations

from typing import Any, TypeGuard

from ..errors import InputError
from ..files.limits import MAX_GRAPH_STEPS
from .comfyui_makers import given_text, makers
from .comfyui_random import CHOOSES, is_named
from .comfyui_text import Graph, GraphReading, inputs_of
from .infotext import plain

MUTED, BYPASSED = 2, 4
TEXT_NODES = ("text", "string", "primitive")


def is_graph(value: Any) -> TypeGuard[dict[str, Any]]:
    """Whether a JSON value is {id: {class_type, inputs}, ...}."""
    nodes = value.values() if isinstance(value, dict) else ()
    return any(isinstance(node, dict) and "class_type" in node for node in nodes)


def is_workflow(value: Any) -> TypeGuard[dict[str, Any]]:
    """Whether a JSON value is the editor's form of a graph."""
    return isinstance(value, dict) and isinstance(value.get("nodes"), list) and "links" in value


def read(value: dict[str, Any], workflow: dict[str, Any] | None = None) -> str | None:
    """Return the prompt of a graph in either form.

    Args:
        value: the graph.
        workflow: the editor's form of the same graph; it holds what nodes that show a text showed.

    Raises:
        InputError: see `prompt_of`.
    """
    if is_workflow(value):
        return prompt_of(from_workflow(value), resolved=False)
    graph = {id: node for id, node in value.items() if isinstance(node, dict) and "class_type" in node}
    return prompt_of(_with_shown(graph, workflow or {}))


def prompt_of(graph: Graph, resolved: bool = True) -> str | None:
    """The text that the last sampler before the saved image was given; None where none is found.

    Args:
        resolved: see `comfyui_text.text_at`.

    Raises:
        InputError: several images are saved, of different prompts: which one this is, nobody knows; or a
            switch, a change of the text, or a random choice that cannot be followed.
    """
    found, reading, savers = [], GraphReading(graph), _savers(graph)
    if len(savers) * len(graph) > MAX_GRAPH_STEPS.value:
        size = f"{len(graph):,} nodes, of which {len(savers):,} may hold the image"
        raise InputError(f"its graph is too large: {size} ({MAX_GRAPH_STEPS.advice}): give the prompt")
    for save in savers:
        for maker in makers(graph, save):
            text = given_text(graph, maker, resolved, reading)
            if text and plain(text, brackets=False):
                found.append(plain(text, brackets=False))
                break
    distinct = list(dict.fromkeys(found))
    if len(distinct) > 1:
        shown = "; ".join(repr(text[:60]) for text in distinct[:3])
        raise InputError(f"its graph saves images of {len(distinct)} prompts ({shown}): give the prompt")
    return distinct[0] if distinct else None


def from_workflow(workflow: dict[str, Any]) -> Graph:
    """The editor's form -> {id: {class_type, inputs}}; a bypassed node passes on what it was given."""
    links: dict[Any, list[Any]] = {}
    for link in _list(workflow.get("links")):
        if isinstance(link, dict):
            link = [link.get("id"), link.get("origin_id"), link.get("origin_slot", 0)]
        if isinstance(link, list) and len(link) >= 3:
            links[str(link[0])] = [str(link[1]), link[2]]
    graph: Graph = {}
    for node in _list(workflow.get("nodes")):
        if not isinstance(node, dict) or node.get("mode") == MUTED:
            continue
        inputs: dict[str, Any] = {}
        slots = [slot for slot in _list(node.get("inputs")) if isinstance(slot, dict)]
        widgets = node.get("widgets_values")
        if isinstance(widgets, dict):
            inputs.update(widgets)
        elif isinstance(widgets, list):
            named = [slot["widget"].get("name") for slot in slots if isinstance(slot.get("widget"), dict)]
            strings = [value for value in widgets if isinstance(value, str)]
            if len(named) == len(widgets):
                inputs.update((name, value) for name, value in zip(named, widgets) if isinstance(name, str))
            elif len(strings) > 1 and widgets[:2] == strings[:2] and "ildcard" in str(node.get("type")):
                inputs.update(wildcard_text=strings[0], populated_text=strings[1], mode="fixed")
            elif strings and is_named(str(node.get("type")), TEXT_NODES + CHOOSES):
                inputs["text"] = strings[0]  # older editors name no widgets; the text comes first
        linked = {str(slot.get("name")): str(slot.get("link")) for slot in slots}
        inputs.update({name: links[link] for name, link in linked.items() if link in links})
        kind = "Bypassed" if node.get("mode") == BYPASSED else str(node.get("type"))
        graph[str(node.get("id"))] = {"class_type": kind, "inputs": inputs}
    return graph


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _savers(graph: Graph) -> list[str]:
    """Nodes that end the graph with images: those that save, else those that show."""
    ends = {id: str(node.get("class_type")) for id, node in graph.items() if "images" in inputs_of(graph, id)}
    saving = [id for id, kind in ends.items() if "save" in kind.lower()]
    return saving or list(ends) or list(graph)


def _with_shown(graph: Graph, workflow: dict[str, Any]) -> Graph:
    """The graph, in which nodes that show a text hold what they showed while this image was made.

    The graph itself was stored before that, so there they still hold the text of the run before.
    """
    shown = {}
    for node in _list(workflow.get("nodes")):
        if isinstance(node, dict) and "show" in str(node.get("type")).lower():
            values = node.get("widgets_values")
            while isinstance(values, list) and len(values) == 1:
                values = values[0]
            if isinstance(values, str) and values.strip():
                shown[str(node.get("id"))] = values
    return {
        id: {**node, "inputs": {**inputs_of(graph, id), "text_0": shown[id]}} if id in shown else node
        for id, node in graph.items()
    }
