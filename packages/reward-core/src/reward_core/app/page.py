"""The layout of the page and its event handlers."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from ..errors import RewardCoreError
from ..printing.command_line import exhausted
from .image_ranking import ModelRanking, rank_images
from .models import Models
from .results import EMPTY, meaning_html, notice, results_html
from .serve import Limits, require_gradio
from .uploads import upload_folder

TITLE = "Which picture would people like best?"
INTRO = f"""<header class="rc-title"><h1>{TITLE}</h1>
<p>A reward model, trained on people's choices, ranks pictures for a prompt.</p></header>"""


def build_page(models: Models, others: Sequence[str] = (), limits: Limits | None = None):
    """Return the page as a gradio ``Blocks``, for ``serve``.

    Args:
        models: the models to offer; the first is the default.
        others: names of further models that are selected when the page opens.
        limits: limits of one request.
    """
    gr = require_gradio()
    upload_folder()  # gradio reads its path while the page is built
    limits = limits or Limits()

    def rank(files, text, first, more, progress=gr.Progress()):  # noqa: B008, required by gradio
        nothing = gr.skip()
        prompts = list(dict.fromkeys(line.strip() for line in (text or "").splitlines() if line.strip()))
        if not files:
            return notice("No picture given: drop some into the box, or press “Try an example”."), nothing
        if not prompts:
            return notice("No prompt given: type what the pictures were meant to show."), nothing
        notes = _notes_on_limit(len(files), limits.images, "pictures") + _notes_on_limit(
            len(prompts), limits.prompts, "prompts"
        )
        files, prompts = files[: limits.images], prompts[: limits.prompts]
        names = list(dict.fromkeys([first, *(more or [])]))
        notes += _notes_on_limit(len(names), models.most, "models")
        names = names[: models.most]
        try:
            progress(0, desc=f"Loading {' and '.join(names)}")
            loaded = {name: models[name] for name in names}
            result = rank_images(
                loaded,
                prompts,
                files,
                megabytes=limits.megabytes,
                batch_size=models.batch_size,
                progress=lambda done, total: progress((done, total), desc="Scoring", unit="pictures"),
            )
        except RewardCoreError as error:
            return notice(str(error)), nothing
        except (MemoryError, RuntimeError) as error:
            if (reason := exhausted(error)) is None:
                raise
            return notice(reason), nothing
        result.notes.extend(notes)
        meaning = meaning_html(result.rankings, models.meaning) if result.rankings else nothing
        return results_html(result), meaning

    with gr.Blocks(
        title=TITLE,
        analytics_enabled=False,
        fill_width=True,
        delete_cache=(600, 3600),  # every ten minutes, delete uploads that are older than an hour
    ) as page:
        gr.HTML(INTRO, apply_default_css=False)
        with gr.Tabs():
            with gr.Tab("Rank pictures"), gr.Row(equal_height=False, elem_classes="rc-main"):
                with gr.Column(scale=1, min_width=320, elem_classes="rc-form"):
                    files = gr.File(label="Pictures", file_count="multiple", height=180, elem_id="rc-files")
                    text = gr.Textbox(
                        label="Prompts, one per line",
                        placeholder="a small red circle above a big blue square",
                        lines=3,
                        max_lines=limits.prompts,
                        elem_id="rc-prompts",
                    )
                    first = gr.Dropdown(
                        models.names, value=models.names[0], label="Model", elem_id="rc-model"
                    )
                    more = gr.CheckboxGroup(
                        models.names, value=list(others), label="More opinions", elem_id="rc-more"
                    )
                    button = gr.Button("Rank", variant="primary", elem_id="rc-rank")
                    example = gr.Button("Try an example", size="sm", elem_id="rc-example")
                with gr.Column(scale=3, min_width=340):
                    results = gr.HTML(EMPTY, apply_default_css=False, elem_id="rc-results")
            with gr.Tab("What a score means"):
                meaning = gr.HTML(_first_meaning(models), apply_default_css=False, elem_id="rc-meaning")
        inputs, outputs = [files, text, first, more], [results, meaning]
        options = {"concurrency_id": "rank", "api_visibility": "private", "show_progress": "full"}
        gr.on([button.click, text.submit], rank, inputs, outputs, show_progress_on=[results], **options)
        example.click(_example, None, [files, text], api_visibility="private").then(
            rank, inputs, outputs, show_progress_on=[results], **options
        )
    return page


def _notes_on_limit(given: int, limit: int, things: str) -> list[str]:
    if given <= limit:
        return []
    return [f"You gave {given} {things}, but the limit is {limit}: the last {given - limit} were left out"]


def _first_meaning(models: Models) -> str:
    model = models[models.names[0]]
    return meaning_html([ModelRanking(models.names[0], [], model.score_quantiles)], models.meaning)


def _example() -> tuple[list[str], str]:
    folder, prompts = _example_files()
    return sorted(map(str, Path(folder.name).glob("*.png"))), "\n".join(prompts)


@cache
def _example_files() -> tuple[tempfile.TemporaryDirectory, list[str]]:
    """Return a temporary folder with eight images of ShapesBench, and their prompt."""
    from dataclasses import replace

    from PIL import Image

    from .. import shapes

    config = replace(shapes.HELD_OUT, images=(8, 8))
    group = next(shapes.make_groups(1, config, "held_out", start=47))
    folder = tempfile.TemporaryDirectory(prefix="reward-core-example-")
    for i, pixels in enumerate(group.images, start=1):
        Image.fromarray(pixels).save(Path(folder.name) / f"shapes-{i}.png")
    return folder, [group.prompt]
