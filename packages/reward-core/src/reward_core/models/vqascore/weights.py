"""Weights of CLIP-FlanT5: names, checks, and loading tensor by tensor."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from ...errors import CheckpointError, KeyMismatchError
from ..vlm.weights import WeightFiles

SHARED, LM_HEAD = "t5.shared.weight", "t5.lm_head.weight"
VISION = "vision."
_PUBLISHED_VISION = "vision_tower.vision_tower.vision_model."
_CLIP_VISION = "vision_model."
# Other names of the shared embeddings, which a file may have too.
_ALIASES = frozenset(f"t5.{owner}embed_tokens.weight" for owner in ("", "encoder.", "decoder."))
_CONSTANTS = frozenset(["vision.embeddings.position_ids"])  # in files of old versions of transformers


def renamed(key: str) -> str:
    """Return the key in `ClipT5` for a published key."""
    if key.startswith(_PUBLISHED_VISION):
        return VISION + key.removeprefix(_PUBLISHED_VISION)
    return key if key.startswith("mm_projector.") else f"t5.{key}"


def published_key(key: str) -> str:
    """Return the published key for a key in `ClipT5`."""
    if key.startswith(VISION):
        return _PUBLISHED_VISION + key.removeprefix(VISION)
    return key.removeprefix("t5.")


def renamed_clip(key: str) -> str:
    """Return the key in `ClipT5` for a key of a whole CLIP; keys of its other parts stay."""
    return VISION + key.removeprefix(_CLIP_VISION) if key.startswith(_CLIP_VISION) else key


def has_vision(weights: WeightFiles) -> bool:
    """Return whether weights have an image encoder."""
    return any(key.startswith(VISION) for key in weights.shapes)


def load_weights(
    model: nn.Module,
    weights: WeightFiles,
    vision: WeightFiles | None,
    dtype: torch.dtype,
    device: torch.device,
) -> None:
    """Put weights into a `ClipT5` on "meta", one tensor after the other.

    Args:
        model: the model; its vocabulary may be smaller than that of the weights, whose last rows are then
            dropped, as the authors do.
        weights: the published weights.
        vision: a CLIP whose image encoder is used; None if ``weights`` has one.
        dtype, device: dtype and device of all parameters.

    Raises:
        KeyMismatchError: the weights do not match the model.
        CheckpointError: damaged weights, or weights that are not numbers with a fraction.
    """
    parameters = dict(model.named_parameters())
    _check(parameters, [weights] if vision is None else [weights, vision])
    for source in [weights] if vision is None else [vision, weights]:
        for key, tensor in source.tensors():
            if key not in parameters:
                continue
            if not tensor.is_floating_point():
                raise CheckpointError(
                    f"Cannot load '{source.path}': {published_key(key)!r} holds {tensor.dtype}, not floats."
                )
            used = tensor[: len(parameters[key])] if key in (SHARED, LM_HEAD) else tensor
            owner, _, name = key.rpartition(".")
            value = used.to(device=device, dtype=dtype)
            setattr(model.get_submodule(owner), name, nn.Parameter(value, requires_grad=False))


def _check(parameters: dict[str, nn.Parameter], sources: Sequence[WeightFiles]) -> None:
    """Raise KeyMismatchError, with published keys, unless the weights match the parameters."""
    expected = {key: tuple(parameter.shape) for key, parameter in parameters.items()}
    actual = dict(sources[0].shapes)
    for source in sources[1:]:
        actual |= {key: shape for key, shape in source.shapes.items() if key.startswith(VISION)}
    rows = actual.get(SHARED, (0,))[0]
    if rows > expected[SHARED][0]:  # more rows than tokens
        for key in (SHARED, LM_HEAD):
            expected[key] = (rows, *expected[key][1:])
    optional = dict.fromkeys(_ALIASES, expected[SHARED])
    missing = [published_key(key) for key in expected if key not in actual]
    unexpected = [published_key(key) for key in actual if key not in expected.keys() | _ALIASES | _CONSTANTS]
    shapes = [
        (published_key(key), actual[key], shape)
        for key, shape in (expected | optional).items()
        if key in actual and actual[key] != shape
    ]
    if missing or unexpected or shapes:
        raise KeyMismatchError(str(sources[0].path), missing, unexpected, shapes)
