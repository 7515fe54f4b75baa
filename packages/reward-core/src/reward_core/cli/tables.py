"""Tables that the commands print."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..prepare import Prepared
    from ..rankings.evaluation import Evaluation
    from ..scoring.scoring_model import ScoringModel


def print_ranking(model: ScoringModel, prompt: str, results: list[dict]) -> None:
    from ..printing.terminal import PlainTable, print_table

    quantiles = model.score_quantiles
    table = PlainTable(title=prompt, caption=f"percentile: {quantiles.source}" if quantiles else None)
    for name in ("rank", "image", "score", *(["percentile"] if quantiles else [])):
        table.add_column(name, justify="left" if name == "image" else "right")
    for result in results:
        cells = [f"{result['percentile']:.0f}"] if quantiles else []
        table.add_row(str(result["place"]), result["image"], f"{result['score']:.4f}", *cells)
    print_table(table)


def print_evaluation(name: str, result: Evaluation) -> None:
    from ..printing.terminal import PlainTable, print_table

    table = PlainTable("", "pairs", "accuracy", title=f"{name}: pairs in the right order")
    table.add_row("all pairs", f"{result.pairs:,}", f"{result.pooled_accuracy:.1%}")
    table.add_row(f"mean of {result.prompts:,} prompts", "", f"{result.per_prompt_accuracy:.1%}")
    for title, shares in (
        ("apart by", result.by_gap),
        ("faultless against", result.by_fault),
        ("things in the prompt:", result.by_objects),
    ):
        table.add_section()
        for key, share in shares.items():
            table.add_row(f"{title} {key.replace('_', ' ')}", f"{share.pairs:,}", f"{share.accuracy:.1%}")
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
