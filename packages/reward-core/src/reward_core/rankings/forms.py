"""Convert rows with one of four sets of columns to ``RankedPrompt``.

    one row per prompt   id, prompt, images (a list), ranking (a list)     ImageReward's JSON
    one row per image    id, prompt, image, rank                           ImageRewardDB
    one row per pair     id, prompt, better, worse
    one row per pair     id, prompt, image_0, image_1, label_0, label_1    Pick-a-Pic

These names are roles. ROLES lists the default column names of each role; callers may pass others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..errors import InputError
from ..inputs.image_file import ImageSource, image_name
from .comparisons import Comparison, group_comparisons
from .json_records import read_record
from .ranked_prompt import RankedPrompt
from .table_reader import Rows

#: Role -> default names of its column, the most common first.
ROLES: dict[str, tuple[str, ...]] = {
    "id": ("id", "prompt_id"),
    "prompt": ("prompt", "caption"),
    "images": ("generations", "images"),
    "ranking": ("ranking",),
    "image": ("image_path", "image"),
    "rank": ("rank",),
    "better": ("better",),
    "worse": ("worse",),
    "image_0": ("jpg_0", "image_0"),
    "image_1": ("jpg_1", "image_1"),
    "label_0": ("label_0",),
    "label_1": ("label_1",),
    "uid_0": ("image_0_uid",),  # identifies an image that is given as bytes
    "uid_1": ("image_1_uid",),
    "has_label": ("has_label",),  # false: the two images were not compared
}
FORMS = (("images", "ranking"), ("better", "worse"), ("image_0", "image_1"), ("image", "rank"))

#: Function from an image's cell to the image, or None if the cell has none.
Resolve = Callable[[Any], "ImageSource | None"]


def group_rows(rows: Rows, chosen: Mapping[str, str] | None, resolve: Resolve) -> list[RankedPrompt]:
    """Return the rankings in rows, in the order in which prompts first occur.

    Args:
        rows: the rows.
        chosen: role -> column, for columns with other names than those in ROLES.
        resolve: function from an image's cell to the image.

    Raises:
        InputError: the columns are not one of the known sets, or a row is invalid; the message names it.
    """
    columns = _columns(rows, chosen or {})
    complete = [form for form in FORMS if all(role in columns for role in form)]
    partial = [form for form in FORMS if any(role in columns for role in form)]
    form = next(iter([*complete, *partial]), None)
    if form is None or (rows.regular and not (complete and "prompt" in columns)):
        expected = "; ".join(", ".join(("prompt", *form)) for form in FORMS)
        raise InputError(
            f"Cannot read '{rows.name}': its columns are {', '.join(rows.columns)}, expected one of these "
            f"sets: {expected}. Map other names with --columns ROLE=COLUMN ..."
        )
    # Default names for roles without a column, used in errors about records that miss a key.
    columns = {role: names[0] for role, names in ROLES.items() if role in (*form, "prompt")} | columns
    if form == ("images", "ranking"):
        return [read_record(rows.where(i), row, columns, resolve) for i, row in rows.rows]
    if form == ("image", "rank"):
        return _images(rows, columns, resolve)
    return group_comparisons(_comparisons(rows, form, columns, resolve))


def _columns(rows: Rows, chosen: Mapping[str, str]) -> dict[str, str]:
    """Return the column of each role that has one."""
    for role, column in chosen.items():
        if role not in ROLES:
            raise InputError(
                f"Cannot use column {role}={column}: no such role; roles are {', '.join(ROLES)}."
            )
        if column not in rows.columns:
            raise InputError(
                f"Cannot read '{rows.name}': no column {column!r}; its columns are {', '.join(rows.columns)}."
            )
    columns = {role: next((n for n in names if n in rows.columns), None) for role, names in ROLES.items()}
    columns |= chosen
    # If the caller names columns of one form, ignore other forms that the columns happen to match.
    selected = [form for form in FORMS if any(role in chosen for role in form)]
    ignored = {role for form in FORMS if selected and form not in selected for role in form}
    return {role: column for role, column in columns.items() if column is not None and role not in ignored}


def _images(rows: Rows, columns: Mapping[str, str], resolve: Resolve) -> list[RankedPrompt]:
    key = "id" if "id" in columns else "prompt"
    prompts: dict[str, str] = {}
    images: dict[str, list[tuple[ImageSource, int]]] = {}
    for i, row in rows.rows:
        where = rows.where(i)
        prompt = _prompt(where, row, columns)
        name = row.get(columns[key])
        if name is None or name != name:  # NaN
            raise InputError(f"Cannot read {where}: no {columns[key]!r}.")
        name = str(name)
        if prompts.setdefault(name, prompt) != prompt:
            raise InputError(
                f"Cannot read {where}: {columns[key]!r} {name} had another prompt in an earlier row than "
                f"{prompt!r:.80}."
            )
        rank: Any = row.get(columns["rank"])
        cell = row.get(columns["image"])
        if not _is_whole(rank):
            raise InputError(
                f"Cannot read {where}: {columns['rank']!r} must be an integer, got {rank!r:.80}."
            )
        if cell is None:
            raise InputError(f"Cannot read {where}: no {columns['image']!r}.")
        image = resolve(cell)
        if image is not None:
            images.setdefault(name, []).append((image, int(float(rank))))
    return [
        RankedPrompt(
            name, prompts[name], tuple(image for image, _ in group), tuple(rank for _, rank in group)
        )
        for name, group in images.items()
    ]


def _comparisons(
    rows: Rows, form: Sequence[str], columns: Mapping[str, str], resolve: Resolve
) -> list[Comparison]:
    comparisons = []
    for i, row in rows.rows:
        where = rows.where(i)
        prompt = _prompt(where, row, columns)
        sides = [(role, f"uid_{side}") for side, role in enumerate(form)]
        if form == ("image_0", "image_1"):
            if "has_label" in columns and not _has_label(where, row.get(columns["has_label"]), columns):
                continue
            labels = [_label(where, row, columns, role) for role in ("label_0", "label_1")]
            if labels[0] == labels[1]:
                continue  # a tie
            sides.sort(key=lambda side: labels[int(side[1][-1])], reverse=True)
        images, keys = [], []
        for role, uid in sides:
            image = resolve(row.get(columns[role]))
            if image is None:
                value = row.get(columns[role])
                raise InputError(
                    f"Cannot read {where}: {columns[role]!r} is not an image, got {value!r:.80}."
                )
            images.append(image)
            key = row.get(columns[uid]) if form == ("image_0", "image_1") and uid in columns else None
            keys.append(image_name(image) if key is None else key)
        if keys[0] == keys[1]:
            raise InputError(f"Cannot read {where}: it compares the image '{keys[0]}' with itself.")
        row_id = row.get(columns["id"]) if "id" in columns else i
        comparisons.append(Comparison(str(row_id), prompt, images[0], images[1], keys[0], keys[1]))
    return comparisons


def _prompt(where: str, row: Mapping[str, Any], columns: Mapping[str, str]) -> str:
    prompt = row.get(columns["prompt"])
    if not isinstance(prompt, str):
        raise InputError(f"Cannot read {where}: the prompt must be a string, got {prompt!r:.80}.")
    return prompt


def _has_label(where: str, value: Any, columns: Mapping[str, str]) -> bool:
    if value != value:  # NaN
        raise InputError(
            f"Cannot read {where}: {columns['has_label']!r} must be true or false, got {value!r}."
        )
    return value not in (False, None, "False", "false")


def _label(where: str, row: Mapping[str, Any], columns: Mapping[str, str], role: str) -> float:
    """Return a label; it must be finite, because NaN differs from every label and would never be a tie."""
    label: Any = row.get(columns.get(role, role))
    try:
        number = float(label)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"Cannot read {where}: {role!r} must be a number, got {label!r:.80}.")
    return number


def _is_whole(value: Any) -> bool:
    """Return whether a value is an integer, possibly as 2.0 (tables with empty cells) or "2" (CSV)."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return False
    try:
        return float(value).is_integer()
    except ValueError:
        return False
