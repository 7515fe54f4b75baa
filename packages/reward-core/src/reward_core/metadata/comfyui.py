"""Reading of the prompt in a ComfyUI graph.

The graph is followed from the save node to the sampler, and from the sampler to the text. It is stored in two
formats: "prompt", {id: {class_type, inputs}} with links [id, output], and "workflow", the nodes and links of
the editor. The second format is converted to the first.
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
    """Return whether a JSON value is {id: {class_type, inputs}, ...}."""
    nodes = value.values() if isinstance(value, dict) else ()
    return any(isinstance(node, dict) and "class_type" in node for node in nodes)


def is_workflow(value: Any) -> TypeGuard[dict[str, Any]]:
    """Return whether a JSON value is a graph in the format of the editor."""
    return isinstance(value, dict) and isinstance(value.get("nodes"), list) and "links" in value


def read(value: dict[str, Any], workflow: dict[str, Any] | None = None) -> str | None:
    """Return the prompt of a graph in either format.

    Args:
        value: the graph.
        workflow: the same graph in the format of the editor, with the texts that nodes displayed.

    Raises:
        InputError: as in `prompt_of`.
    """
    if is_workflow(value):
        return prompt_of(from_workflow(value), resolved=False)
    graph = {id: node for id, node in value.items() if isinstance(node, dict) and "class_type" in node}
    return prompt_of(_with_displayed_texts(graph, workflow or {}))


def prompt_of(graph: Graph, resolved: bool = True) -> str | None:
    """Return the text of the last sampler before the saved image, or None.

    Args:
        graph: the graph.
        resolved: as in `comfyui_text.text_at`.

    Raises:
        InputError: the graph saves images of several prompts, or has a switch, a change of the text or a
            random choice that cannot be followed.
    """
    prompts, reading, savers = [], GraphReading(graph), _savers(graph)
    if len(savers) * len(graph) > MAX_GRAPH_STEPS.value:
        size = f"{len(graph):,} nodes, {len(savers):,} of which may save the image"
        raise InputError(f"its graph is too large: {size} ({MAX_GRAPH_STEPS.advice}). Give the prompt")
    for save in savers:
        for maker in makers(graph, save):
            text = given_text(graph, maker, resolved, reading)
            if text and plain(text, brackets=False):
                prompts.append(plain(text, brackets=False))
                break
    distinct = list(dict.fromkeys(prompts))
    if len(distinct) > 1:
        examples = "; ".join(repr(text[:60]) for text in distinct[:3])
        raise InputError(f"its graph saves images of {len(distinct)} prompts ({examples}). Give the prompt")
    return distinct[0] if distinct else None


def from_workflow(workflow: dict[str, Any]) -> Graph:
    """Convert a graph from the format of the editor to {id: {class_type, inputs}}.

    Bypassed nodes pass their inputs through.
    """
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
                inputs["text"] = strings[0]  # older editors have no names of widgets; the text is first
        linked = {str(slot.get("name")): str(slot.get("link")) for slot in slots}
        inputs.update({name: links[link] for name, link in linked.items() if link in links})
        kind = "Bypassed" if node.get("mode") == BYPASSED else str(node.get("type"))
        graph[str(node.get("id"))] = {"class_type": kind, "inputs": inputs}
    return graph


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _savers(graph: Graph) -> list[str]:
    """Return the last nodes that save images, or else those that display them."""
    ends = {id: str(node.get("class_type")) for id, node in graph.items() if "images" in inputs_of(graph, id)}
    saving = [id for id, kind in ends.items() if "save" in kind.lower()]
    return saving or list(ends) or list(graph)


def _with_displayed_texts(graph: Graph, workflow: dict[str, Any]) -> Graph:
    """Return the graph with the texts that its nodes displayed.

    The graph is stored before it runs, so its nodes still have the texts of the previous run.
    """
    displayed = {}
    for node in _list(workflow.get("nodes")):
        if isinstance(node, dict) and "show" in str(node.get("type")).lower():
            values = node.get("widgets_values")
            while isinstance(values, list) and len(values) == 1:
                values = values[0]
            if isinstance(values, str) and values.strip():
                displayed[str(node.get("id"))] = values
    return {
        id: {**node, "inputs": {**inputs_of(graph, id), "text_0": displayed[id]}} if id in displayed else node
        for id, node in graph.items()
    }
