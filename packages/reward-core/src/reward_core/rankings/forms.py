"""Which columns mean what: four kinds of rows, one internal form.

    a row a prompt    id, prompt, images (a list), ranking (a list)     the original's JSON
    a row an image   id, prompt, image, rank                           ImageRewardDB
    a row a pair      id, prompt, better, worse
    a row a pair      id, prompt, image_0, image_1, label_0, label_1    Pick-a-Pic

The names above are roles. Columns that play them go by the names in ROLES, or by those the caller gives.
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

#: Role -> names of columns that play it unless the caller says otherwise, the most likely first.
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
    "uid_0": ("image_0_uid",),  # which image it is, where images come as bytes
    "uid_1": ("image_1_uid",),
    "has_label": ("has_label",),  # false: nobody compared these two
}
FORMS = (("images", "ranking"), ("better", "worse"), ("image_0", "image_1"), ("image", "rank"))

#: An image's cell -> the image, or None where the cell holds none.
Resolve = Callable[[Any], "ImageSource | None"]


def group_rows(rows: Rows, chosen: Mapping[str, str] | None, resolve: Resolve) -> list[RankedPrompt]:
    """The rows as ranked prompts, in the order in which prompts first occur.

    Args:
        chosen: role -> column, for columns that go by other names than those in ROLES.

    Raises:
        InputError: no kind of row that is known, or a row of another form; it is named.
    """
    columns = _columns(rows, chosen or {})
    fitting = [form for form in FORMS if all(role in columns for role in form)]
    partly = [form for form in FORMS if any(role in columns for role in form)]
    form = next(iter([*fitting, *partly]), None)
    if form is None or (rows.regular and not (fitting and "prompt" in columns)):
        wanted = "; ".join(", ".join(("prompt", *form)) for form in FORMS)
        raise InputError(
            f"{rows.name}: its columns are {', '.join(rows.columns)}; one of these sets was expected: "
            f"{wanted} (name columns with --columns ROLE=COLUMN ...)"
        )
    # A record that lacks what others have is told by number; here are the names that it is told by.
    columns = {role: names[0] for role, names in ROLES.items() if role in (*form, "prompt")} | columns
    if form == ("images", "ranking"):
        read = (read_record(f"{rows.name}: {rows.unit} {i}", row, columns, resolve) for i, row in rows.rows)
        return list(read)
    if form == ("image", "rank"):
        return _images(rows, columns, resolve)
    return group_comparisons(_comparisons(rows, form, columns, resolve))


def _columns(rows: Rows, chosen: Mapping[str, str]) -> dict[str, str]:
    """Role -> column."""
    for role, column in chosen.items():
        if role not in ROLES:
            raise InputError(f"column for {role!r}: no such role; roles are {', '.join(ROLES)}")
        if column not in rows.columns:
            raise InputError(f"{rows.name}: no column {column!r}; its columns are {', '.join(rows.columns)}")
    found = {role: next((n for n in names if n in rows.columns), None) for role, names in ROLES.items()}
    found |= chosen
    # Who names the columns of one form does not mean another one that the columns also happen to fit.
    meant = [form for form in FORMS if any(role in chosen for role in form)]
    unmeant = {role for form in FORMS if meant and form not in meant for role in form}
    return {role: column for role, column in found.items() if column is not None and role not in unmeant}


def _images(rows: Rows, columns: Mapping[str, str], resolve: Resolve) -> list[RankedPrompt]:
    key = "id" if "id" in columns else "prompt"
    prompts: dict[str, str] = {}
    images: dict[str, list[tuple[ImageSource, int]]] = {}
    for i, row in rows.rows:
        where = f"{rows.name}: {rows.unit} {i}"
        prompt = _prompt(where, row, columns)
        name = row.get(columns[key])
        if name is None or name != name:  # NaN
            raise InputError(f"{where}: no {columns[key]!r}")
        name = str(name)
        if prompts.setdefault(name, prompt) != prompt:
            raise InputError(
                f"{where}: {columns[key]!r} {name} has another prompt than before: {prompt!r:.80}"
            )
        rank: Any = row.get(columns["rank"])
        cell = row.get(columns["image"])
        if not _is_whole(rank):
            raise InputError(f"{where}: {columns['rank']!r} must be a whole number, got {rank!r:.80}")
        if cell is None:
            raise InputError(f"{where}: no {columns['image']!r}")
        image = resolve(cell)
        if image is not None:
            images.setdefault(name, []).append((image, int(float(rank))))
    return [
        RankedPrompt(name, prompts[name], tuple(image for image, _ in some), tuple(rank for _, rank in some))
        for name, some in images.items()
    ]


def _comparisons(
    rows: Rows, form: Sequence[str], columns: Mapping[str, str], resolve: Resolve
) -> list[Comparison]:
    comparisons = []
    for i, row in rows.rows:
        where = f"{rows.name}: {rows.unit} {i}"
        prompt = _prompt(where, row, columns)
        sides = [(role, f"uid_{side}") for side, role in enumerate(form)]
        if form == ("image_0", "image_1"):
            if "has_label" in columns and not _has_label(where, row.get(columns["has_label"]), columns):
                continue
            labels = [_label(where, row, columns, role) for role in ("label_0", "label_1")]
            if labels[0] == labels[1]:
                continue  # a tie is no pair
            sides.sort(key=lambda side: labels[int(side[1][-1])], reverse=True)
        images, keys = [], []
        for role, uid in sides:
            image = resolve(row.get(columns[role]))
            if image is None:
                raise InputError(f"{where}: {columns[role]!r} is no image: {row.get(columns[role])!r:.80}")
            images.append(image)
            named = row.get(columns[uid]) if form == ("image_0", "image_1") and uid in columns else None
            keys.append(image_name(image) if named is None else named)
        if keys[0] == keys[1]:
            raise InputError(f"{where}: compares the image {keys[0]} with itself")
        identity = row.get(columns["id"]) if "id" in columns else i
        comparisons.append(Comparison(str(identity), prompt, images[0], images[1], keys[0], keys[1]))
    return comparisons


def _prompt(where: str, row: Mapping[str, Any], columns: Mapping[str, str]) -> str:
    prompt = row.get(columns["prompt"])
    if not isinstance(prompt, str):
        raise InputError(f"{where}: the prompt must be a string, got {prompt!r:.80}")
    return prompt


def _has_label(where: str, value: Any, columns: Mapping[str, str]) -> bool:
    if value != value:  # NaN
        raise InputError(f"{where}: {columns['has_label']!r} must be true or false, got {value!r}")
    return value not in (False, None, "False", "false")


def _label(where: str, row: Mapping[str, Any], columns: Mapping[str, str], role: str) -> float:
    """A finite number: NaN differs from every other label, and would make a pair that nobody made."""
    label: Any = row.get(columns.get(role, role))
    try:
        number = float(label)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"{where}: {role!r} must be a number, got {label!r:.80}")
    return number


def _is_whole(value: Any) -> bool:
    """Whether it is a whole number, also as 2.0 (tables with gaps) and "2" (CSV)."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return False
    try:
        return float(value).is_integer()
    except ValueError:
        return False
