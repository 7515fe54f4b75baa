"""Tables that the commands print."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..models.compare_precisions import PrecisionComparison, PrecisionResult
    from ..prepare import Prepared
    from ..rankings.evaluation import Evaluation
    from ..scoring.scoring_model import ScoringModel

NOT_SUPPORTED = "not supported on this machine"
VERDICTS = {"safe": "safe to use", "close": "close to exact", "unsafe": "not safe, use exact"}


def score_caption(models: Sequence[str], *others: str | None) -> str | None:
    """Return the meaning of the models' scores, as far as it is known, and other lines as one caption."""
    from ..models.score_meaning import score_meaning

    lines = [*map(score_meaning, models), *others]
    return "; ".join(line for line in lines if line) or None


def print_ranking(source: str, model: ScoringModel, prompt: str, results: list[dict]) -> None:
    from ..printing.terminal import PlainTable, print_table

    quantiles = model.score_quantiles
    percentile = f"percentile: {quantiles.source}" if quantiles else None
    table = PlainTable(title=prompt, caption=score_caption([source], percentile))
    for name in ("rank", "image", "score", *(["percentile"] if quantiles else [])):
        table.add_column(name, justify="left" if name == "image" else "right")
    for result in results:
        cells = [f"{result['percentile']:.0f}"] if quantiles else []
        table.add_row(str(result["place"]), result["image"], f"{result['score']:.4f}", *cells)
    print_table(table)


def print_rankings(sources: Sequence[str], names: Sequence[str], prompt: str, results: list[dict]) -> None:
    """Print a ranking with a column of scores and ranks for each of several models."""
    from ..printing.terminal import PlainTable, print_table

    caption = score_caption(sources, f"in brackets: rank; sorted by {names[0]}")
    table = PlainTable(title=prompt, caption=caption)
    table.add_column("image")
    for name in names:
        table.add_column(name, justify="right")
    for result in results:
        scores = [result["scores"][name] for name in names]
        table.add_row(result["image"], *(f"{item['score']:.4f} ({item['place']})" for item in scores))
    print_table(table)


def print_evaluations(results: dict[str, Evaluation]) -> None:
    """Print the accuracy of one or more models on the same pairs."""
    from ..printing.terminal import PlainTable, print_table

    first, *_ = results.values()
    names = ["accuracy"] if len(results) == 1 else list(results)
    title = "pairs in the right order"
    table = PlainTable(title=f"{next(iter(results))}: {title}" if len(results) == 1 else title)
    table.add_column()
    for name in ("pairs", *names):
        table.add_column(name, justify="right")

    def accuracies(of: Callable[[Evaluation], float]) -> list[str]:
        return [f"{of(result):.1%}" for result in results.values()]

    table.add_row("all pairs", f"{first.pairs:,}", *accuracies(lambda result: result.pooled_accuracy))
    means = accuracies(lambda result: result.per_prompt_accuracy)
    table.add_row(f"mean of {first.prompts:,} prompts", "", *means)
    for title, part in (
        ("apart by", "by_gap"),
        ("faultless against", "by_fault"),
        ("things in the prompt:", "by_objects"),
    ):
        table.add_section()
        for key, share in getattr(first, part).items():
            cells = accuracies(lambda result: getattr(result, part)[key].accuracy)  # noqa: B023
            table.add_row(f"{title} {key.replace('_', ' ')}", f"{share.pairs:,}", *cells)
    print_table(table)


def print_prepared(prepared: Prepared) -> None:
    from ..printing.terminal import PlainTable, print_table

    table = PlainTable(title=str(prepared.folder))
    table.add_column("split")
    for name in ("prompts", "images", "untied pairs", "images skipped", "prompts dropped"):
        table.add_column(name, justify="right")
    for name, figures in prepared.splits.items():
        table.add_row(name, *(f"{value:,}" for value in vars(figures).values()))
    print_table(table)


def print_precisions(name: str, comparison: PrecisionComparison, source: str) -> None:
    """Print a table and a verdict for each precision; ``source`` says where the prompts come from."""
    from ..printing.escapes import printable
    from ..printing.terminal import PlainTable, plain_console, print_table

    prompts = len(comparison.prompts)
    title = (
        f"{name}: {len(comparison.images)} images, each with {prompts} prompt{'s' * (prompts != 1)} {source}"
    )
    caption = (
        f"differences from exact in standard deviations of its rewards ({comparison.reward_std:.4g}); "
        "changed: prompts whose best image is another one"
    )
    table = PlainTable(title=title, caption=caption)
    table.add_column("precision")
    table.add_column("images/s", wrap=True)
    for header in ("largest", "mean", "tau", "changed"):
        table.add_column(header, justify="right")
    table.add_row("exact", f"{comparison.exact_images_per_s:.2f}", "", "", "", "")
    for precision, result in comparison.results.items():
        found = result.agreement
        if found is None:
            table.add_row(precision, NOT_SUPPORTED, "", "", "", "")
            continue
        speed = f"{result.images_per_s:.2f} ({comparison.speedup(precision):.2f}x)"
        figures = [f"{value:.4f}" for value in (found.max_difference, found.mean_difference, found.tau)]
        table.add_row(precision, speed, *figures, f"{found.changed_winners}/{prompts}")
    print_table(table)
    for precision, result in comparison.results.items():
        plain_console().print(printable(f"{precision}: {_verdict(result, prompts)}"))


def _verdict(result: PrecisionResult, prompts: int) -> str:
    found = result.agreement
    if found is None:
        return f"{NOT_SUPPORTED} ({result.reason})"
    winners = "same winners"
    if found.changed_winners:
        winners = (
            f"{found.changed_winners} of {prompts} winners changed, to images at most "
            f"{found.winner_loss:.2g} lower"
        )
    largest = f"largest difference {found.max_difference:.2g} of the standard deviation"
    return f"{VERDICTS[found.verdict]} ({largest}, {winners})"
