"""The memory estimate of a dry run against the measured peak."""

from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[2] / "tools"


@pytest.mark.slow
def test_the_estimate_is_within_a_fifth_of_the_measured_peak(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))
    from check_memory_estimate import CASES, compare, make_pipeline

    pipeline = make_pipeline("tiny", tmp_path / "tiny")
    for case in ("LoRA, guidance", "all weights, 2 microsteps"):
        measured, estimated = compare(pipeline, tmp_path / case, CASES[case])
        assert estimated == pytest.approx(measured, rel=0.2)
