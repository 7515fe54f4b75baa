"""Numbers that pages quote equal the records in docs/results.

A quote is a part of a page whose numbers are format fields of the records. A changed record, or a changed
page, fails the test. To update a page, run `hatch run figures NAME` and paste the expected text.
"""

import json
import re
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


def read(path):
    """Return a record. Keys of digits become numbers, as in format fields."""
    text = path.read_text(encoding="utf-8")
    return json.loads(text, object_hook=lambda d: {int(k) if k.isdigit() else k: v for k, v in d.items()})


RECORDS = {path.stem: read(path) for path in sorted(DOCS.glob("results/*.json"))}
NUMBERS = {name: record["numbers"] for name, record in RECORDS.items()}
LARGEST_IMAGE = 300_000  # bytes


def interval(name, digits=".2f"):
    """Return a quote of [value, low, high]: 1.00 [0.99, 1.00]."""
    value, low, high = (f"{{{name}[{index}]:{digits}}}" for index in range(3))
    return f"{value} [{low}, {high}]"


def seed_row(seed):
    """Return the row of a seed of refl-demo."""
    record = f"{{refl_demo_seed_{seed}["

    def sides(key):
        return ", ".join(f"{record}{key}_{side}]:.2f}}" for side in ("before", "control", "after"))

    def wins(suffix):
        rate, low, high = (f"{record}{key}{suffix}]:.0%}}" for key in ("win_rate", "win_low", "win_high"))
        return f"{rate} [{low}, {high}]"

    cells = map(str, (seed, sides("oracle"), sides("reward"), sides("judge"), wins(""), wins("_control")))
    return f"| {' | '.join(cells)} |"


def strategy_row(index):
    """Return the row of a strategy, at equal compute."""
    record = f"refl_strategies[{index}]"
    spans = [interval(f"{record}[{key}_after]") for key in ("truth", "tiny", "tiny-judge")]
    rest = [interval(f"{record}[win_rate]", ".0%"), f"{{{record}[samples_per_s]:.2f}}"]
    cells = [f"{{{record}[strategy]}}", f"{{{record}[steps]}}", *spans, *rest]
    return f"| {' | '.join(cells)} | {{{record}[peak_memory_mb]:.0f}} |"


def gap_row(title, key):
    record = f"held_out[tiny][{key}]"
    return f"| {title} | {{{record}[pairs]:,}} | {{{record}[accuracy]:.1%}} |"


def oracle_row(record, name, seed):
    """Return the row of a seed of a strategy with the oracle as reward, and its control."""
    rows = {r["strategy"]: i for i, r in enumerate(NUMBERS[record]) if r["seed"] == seed}
    trained, control = (f"{record}[{rows[row]}]" for row in (name, f"{name}-control"))
    means = (f"{trained}[truth_before]", f"{control}[truth_after]", f"{trained}[truth_after]")
    truth = ", ".join(f"{{{row}[0]:.3f}}" for row in means)
    wins = [interval(f"{row}[win_rate]", ".0%") for row in (control, trained)]
    return f"| {seed} | {truth} | {' | '.join(wins)} | {interval(f'{trained}[win_rate_control]', '.0%')} |"


def hacking_row(run):
    reached, last = f"refl_hacking[at_equal_reward][{run}]", f"refl_hacking[last][{run}]"
    cells = [f"{{{reached}[{key}]:.3f}}" for key in ("truth", "tiny-judge", "diversity")]
    return (
        f"| {run} | {{{reached}[step]:.0f}} | {' | '.join(cells)} | {{{last}[truth]:.3f}} "
        f"| {{{last}[tiny]:.2f}} |"
    )


def scale_row(index):
    record = f"refl_hacking[lora_scales][{index}]"
    cells = [f"{{{record}[{key}]:.2f}}" for key in ("tiny", "tiny-judge", "truth")]
    return f"| {{{record}[scale]}} | {' | '.join(cells)} | {{{record}[diversity]:.3f}} |"


def step_row(index, note="", name="refl_hacking"):
    record = f"{name}[curves][none][{index}]"
    return (
        f"| {{{record}[step]}}{note} | {{{record}[tiny]:.2f}} | {{{record}[tiny-judge]:.2f}} "
        f"| {{{record}[diversity]:.3f}} | {{{record}[truth]:.2f}} |"
    )


def speed_row(
    path, title, table="batches", baselines=("autocast", "autocast, converted"), digits=2, name="scoring_amx"
):
    """Return the row of a path of bench_scoring: its rates and quartiles of its ratios to baselines."""
    record = f"{name}[{table}][{path}]"
    cells = [f"{{{record}[{key}]:.{digits}f}}" for key in ("rate", "best")]
    for name in baselines:
        low, median, high = (f"{{{record}[times {name}][{index}]:.2f}}" for index in range(3))
        cells.append(f"{median} ({low}-{high})" if name != path else "1")
    return f"| {title} | {' | '.join(cells)} |"


def speed_rows(name):
    """Return the rows of all tables of a run of bench_scoring."""
    one = ("batch size 1",)
    slower = ("batch size 1", "exact", "fast", "fast, from tensors", "int8", "int8, from tensors")
    precisions = ("exact", "fast", "int8")
    return [
        *(speed_row(path, title, name=name) for path, title in SPEED_TITLES.items()),
        *(speed_row(path, path, "slower", one, name=name) for path in slower),
        *(
            speed_row(path, f"{path}, one image at a time", "single_image", one, name=name)
            for path in precisions
        ),
        *(
            speed_row(
                path, f"{path}, {count} prompts", f"several_prompts][{count}", ("autocast",), 0, name=name
            )
            for count in (10, 100)
            for path in precisions
        ),
        *(agreement_row(path, name) for path in ("autocast", "fast", "int8")),
    ]


def agreement_row(path, name):
    record = f"{name}[agreement][{path}]"
    cells = [f"{{{record}[{key}]:.3f}}" for key in ("max_difference", "tau", "tau_by_prompt")]
    return f"| {path} | {' | '.join(cells)} | {{{record}[changed_winners]}} |"


# The format syntax has no negative indices: the last validation of each run.
NUMBERS["refl_hacking"]["last"] = {
    name: curve[-1] for name, curve in NUMBERS["refl_hacking"]["curves"].items()
}
GAPS = ("0.0-0.05", "0.05-0.1", "0.1-0.2", "0.2-0.3", "0.3-0.5", "0.5-1.0")
GAP_TITLES = (
    *("utilities less than 0.05 apart", "0.05 to 0.1", "0.1 to 0.2", "0.2 to 0.3", "0.3 to 0.5", "0.5 to 1"),
)
SPEED_TITLES = {
    "autocast": "the same network under `torch.autocast` in bfloat16, from ready pixels",
    "autocast, converted": "the same, weights converted to bfloat16 once",
    "fast": "fast, from JPEG files",
    "int8": "int8, from JPEG files",
}
ORACLE = "| {oracle[oracle_clean_per_s]}, {oracle[oracle_per_s]} |"
QUOTES = {
    "README.md": [
        "beside plain bfloat16 autocast, on an Intel Xeon with AMX: fast, int8 "
        "| {scoring_amx_again[batches][fast][times autocast][1]:.1f} to "
        "{scoring_amx[batches][fast][times autocast][1]:.1f} times, "
        "{scoring_amx[batches][int8][times autocast][1]:.1f} times |",
        "in batches from files: exact, fast, int8; limit of bfloat16 products | "
        "{scoring_epyc[slower][batch size 1][rate]:.2f}; {scoring_epyc[slower][exact][rate]:.2f}, "
        "{scoring_epyc[batches][fast][rate]:.2f}, {scoring_epyc[batches][int8][rate]:.2f}; "
        "{scoring_epyc[limits][bfloat16][images_per_s]:.2f} |",
        "the same beside plain bfloat16 autocast: fast, int8 | "
        "{scoring_epyc[batches][fast][times autocast][1]:.1f} times, "
        "{scoring_epyc[batches][int8][times autocast][1]:.1f} times |",
        "images a second and core, on a busy machine: clean, with faults " + ORACLE,
        "compared to the known truth | {oracle[pairs_as_in_truth]:.1%} |",
        "{parity[pairs]} pairs on seeded weights of tiny size "
        "| {parity[largest_difference_in_millionths]:.1f}e-6 at most |",
        "| {loading[pt_ratio]:.2f} (.pt), {loading[safetensors_ratio]:.2f} (folder) |",
        "demo, once installed: processor time | {demo[processor_seconds]:.0f} s |",
        "(1,000 groups); three seeds | {held_out[tiny][pooled_accuracy]:.1%};",
        "true quality on unseen prompts | "
        + ", ".join(
            f"{{refl_demo_seed_{s}[oracle_before]:.2f}} to {{refl_demo_seed_{s}[oracle_after]:.2f}}"
            for s in range(3)
        ),
        "than those of a control run without reward | "
        + "; ".join(
            ", ".join(f"{{refl_demo_seed_{s}[{key}]:.0%}}" for s in range(3))
            for key in ("win_rate", "win_rate_control")
        ),
        "over ten renderers | " + interval("suite[spearman][tiny]"),
    ],
    "docs/shapesbench.md": [
        "| pairs of images in the true order | {oracle[pairs_as_in_truth]:.1%} |",
        "| mean error of the utility | {oracle[mean_utility_error]:.3f} |",
        "(of 2,000) | {oracle[clean_alignment_above_0.95]:.0%} |",
        "clean images a second and core | {oracle[oracle_clean_per_s]} |",
        "images with faults a second and core | {oracle[oracle_per_s]} |",
        "| renderer, images a second and core | {oracle[rendered_per_s]:,} |",
        "`{held_out[sha256]}`",
        "| all | {held_out[tiny][pairs]:,} | {held_out[tiny][pooled_accuracy]:.1%} |",
        *(gap_row(title, f"by_gap][{gap}") for title, gap in zip(GAP_TITLES, GAPS)),
        gap_row("one object in the prompt", "by_objects][1"),
        gap_row("two objects in the prompt", "by_objects][2"),
        "| all, prompts blanked | {held_out[tiny blank][pairs]:,} "
        "| {held_out[tiny blank][pooled_accuracy]:.1%} |",
        "It puts {held_out[tiny-judge][pooled_accuracy]:.1%} of the same pairs\nin the true order, "
        "{held_out[tiny-judge blank][pooled_accuracy]:.1%} with the prompts blanked.",
    ],
    "docs/strategies.md": [
        *(oracle_row("refl_nft", "nft", seed) for seed in range(3)),
        *(oracle_row("refl_grpo", "grpo", seed) for seed in range(2)),
    ],
    "docs/refl.md": [
        *map(seed_row, range(3)),
        *(strategy_row(index) for index in range(5)),
    ],
    "docs/reward-hacking.md": [
        step_row(0),
        step_row(6),
        step_row(9, ", the best truth"),
        step_row(14),
        step_row(20),
        *map(hacking_row, ("none", "pretraining", "distance", "ensemble")),
        *map(scale_row, range(4)),
        "| lora | - | - | - | - | {refl_hacking[last][lora][truth]:.3f} "
        "| {refl_hacking[last][lora][tiny]:.2f} |",
        *(step_row(index, name="refl_hacking_nft") for index in (0, 1, 3, 4, 6, 8)),
        "ends the run at step {refl_hacking_nft[early_stop][stopped_step]} and keeps the weights of step "
        "{refl_hacking_nft[early_stop][kept_step]}, whose truth is "
        "{refl_hacking_nft[early_stop][kept_truth]:.3f} ({refl_hacking_nft[early_stop][last_truth]:.3f} at\n"
        "the end, {refl_hacking_nft[early_stop][best_truth]:.3f} before training)",
        "learned reward of {refl_hacking[equal_reward]:.2f}, which all but the LoRA reached",
        "It ends the run at step {refl_hacking[early_stop][stopped_step]}",
        "the weights of step {refl_hacking[early_stop][kept_step]}. Their true quality is "
        "{refl_hacking[early_stop][kept_truth]:.3f}: {refl_hacking[early_stop][kept_share_of_best]:.0%} of",
        "({refl_hacking[early_stop][best_truth]:.3f} at step 315)",
    ],
    "docs/performance.md": [
        *speed_rows("scoring_amx"),
        *speed_rows("scoring_epyc"),
        "at {scoring_epyc[limits][bfloat16][tflops]:.2f} TFLOP/s and int8 matrices at "
        "{scoring_epyc[limits][int8][tflops]:.2f}, which is "
        "{scoring_epyc[limits][bfloat16][images_per_s]:.2f} and "
        "{scoring_epyc[limits][int8][images_per_s]:.2f} images/s",
        "in this run {scoring_epyc[slower][exact][rate]:.2f} images/s in batches instead of "
        "{scoring_epyc[slower][exact, torch's linear layers][rate]:.2f}.",
        "A second run of the first table gave fast {scoring_amx_again[batches][fast][times autocast][1]:.2f} "
        "({scoring_amx_again[batches][fast][times autocast][0]:.2f}-"
        "{scoring_amx_again[batches][fast][times autocast][2]:.2f}) and int8 "
        "{scoring_amx_again[batches][int8][times autocast][1]:.2f} "
        "({scoring_amx_again[batches][int8][times autocast][0]:.2f}-"
        "{scoring_amx_again[batches][int8][times autocast][2]:.2f}) times autocast",
        "int8 differs by at most "
        "{scoring_amx_seeds[1][agreement][int8][max_difference]:.3f} and "
        "{scoring_amx_seeds[2][agreement][int8][max_difference]:.3f}; tau is\n"
        "{scoring_amx_seeds[1][agreement][int8][tau]:.3f} and "
        "{scoring_amx_seeds[2][agreement][int8][tau]:.3f}, as mean over the prompts "
        "{scoring_amx_seeds[1][agreement][int8][tau_by_prompt]:.3f} and "
        "{scoring_amx_seeds[2][agreement][int8][tau_by_prompt]:.3f}",
    ],
    "docs/faq.md": [
        "scores {scoring_epyc[slower][batch size 1][rate]:.2f} images/s at batch size 1, "
        "{scoring_epyc[batches][fast][rate]:.2f} in fast\n"
        "and {scoring_epyc[batches][int8][rate]:.2f} in int8",
    ],
    "docs/scoring.md": [
        "differ by at most {photographs[largest_difference_in_levels][224]:.0f} of 255 levels",
    ],
    "packages/benchmark/README.md": [
        "Spearman to the oracle, tiny reward | " + interval("suite[spearman][tiny]"),
        "| {suite[spearman][tiny-cosine][0]:.2f}; {suite[spearman][colour-histogram][0]:.2f}; "
        "{suite[spearman][random][0]:.2f} |",
        "| {suite[accuracy][oracle]:.1%}, {suite[accuracy][tiny]:.1%}, {suite[accuracy][tiny-cosine]:.1%} |",
    ],
    "packages/reward-core/src/reward_core/demo/tiny/README.md": [
        "| {held_out[tiny][pairs]:,} | **{held_out[tiny][pooled_accuracy]:.1%}** |",
    ],
}


@pytest.mark.parametrize(
    ("page", "quote"), [(page, quote) for page, quotes in QUOTES.items() for quote in quotes]
)
def test_a_page_quotes_the_recorded_number(page, quote):
    expected = quote.format_map(NUMBERS)
    text = (ROOT / page).read_text(encoding="utf-8")
    assert expected in text, f"{page} does not contain the recorded numbers: {expected}"


@pytest.mark.parametrize("record", RECORDS.values(), ids=RECORDS)
def test_a_record_names_command_date_machine_and_versions(record):
    assert re.match(r"(hatch run|python tools/)", record["command"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", record["date"])
    assert record["machine"]["cpu"]
    assert record["machine"]["cores"] >= 1
    assert {"python", "torch"} <= record["versions"].keys()


def test_recorded_images_exist_and_images_of_the_docs_are_small():
    for record in RECORDS.values():
        for name in record.get("images", []):
            with Image.open(DOCS / name) as image:
                assert min(image.size) > 100, name
    large = {path.name for path in DOCS.rglob("*.png") if path.stat().st_size > LARGEST_IMAGE}
    assert not large


def test_every_image_of_the_docs_is_shown_on_a_page():
    pages = "".join(
        path.read_text(encoding="utf-8") for path in (*DOCS.rglob("*.md"), *ROOT.glob("packages/*/*.md"))
    )
    unused = {path.name for path in DOCS.rglob("*.png") if path.name not in pages}
    assert not unused
