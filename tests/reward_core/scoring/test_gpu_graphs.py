"""Functions recorded as CUDA graphs: failures, inference mode, fixed batches, threads."""

import threading
import warnings

import pytest
import torch

from reward_core.errors import CompilationWarning
from reward_core.scoring.compiling import CompiledByShape
from reward_core.scoring.fast_path import RECORD_FIXED_BATCH, RECORD_ONLY

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]
DEVICE = "cuda"
CALLS = 4  # a shape is recorded at its third call


def random(rows: int) -> torch.Tensor:
    return torch.rand(rows, 3, device=DEVICE)


def doubled(x: torch.Tensor) -> torch.Tensor:
    return 2 * x


def is_recorded(function: CompiledByShape) -> bool:
    return all(shape.run is not None for shape in function.shapes.values())


@pytest.fixture(autouse=True)
def no_gradient():
    with torch.no_grad():
        yield


def check_recording_works() -> None:
    """Record another function; its failure would be an error."""
    torch.cuda.empty_cache()
    function, x = CompiledByShape(doubled, RECORD_ONLY), random(4)
    with warnings.catch_warnings():
        warnings.simplefilter("error", CompilationWarning)
        assert all(torch.equal(function(x), 2 * x) for _ in range(CALLS))
    assert is_recorded(function)


def test_a_failed_recording_gives_its_reason_and_harms_nothing_else():
    def waiting(x):
        return x * x.sum().item()  # a graph cannot wait for the device

    function, x = CompiledByShape(waiting, RECORD_ONLY), random(4)
    with pytest.warns(CompilationWarning, match="stream is capturing"):
        results = [function(x) for _ in range(CALLS)]
    assert all(torch.allclose(result, waiting(x)) for result in results)
    check_recording_works()


def too_large_to_record(x):
    if torch.cuda.is_current_stream_capturing():
        torch.empty(2**50, dtype=torch.uint8, device=DEVICE)
    return 2 * x


def test_a_function_of_a_fixed_batch_runs_unrecorded_if_its_graph_does_not_fit():
    function, x = CompiledByShape(too_large_to_record, RECORD_FIXED_BATCH), random(4)
    with pytest.warns(CompilationWarning, match="Cannot compile the model: OutOfMemoryError"):
        results = [function(x) for _ in range(CALLS)]
    assert all(torch.equal(result, 2 * x) for result in results)
    check_recording_works()


def test_otherwise_the_caller_can_try_a_smaller_batch():
    function = CompiledByShape(too_large_to_record, RECORD_ONLY)
    for _ in range(2):
        function(random(4))
    for _ in range(2):
        with pytest.raises(torch.cuda.OutOfMemoryError):
            function(random(4))
    check_recording_works()


def test_a_function_recorded_in_inference_mode_can_be_used_outside():
    function, x = CompiledByShape(doubled, RECORD_ONLY), random(4)
    with torch.inference_mode():
        for _ in range(CALLS):
            function(random(4))
    assert is_recorded(function)
    with warnings.catch_warnings():
        warnings.simplefilter("error", CompilationWarning)
        assert torch.equal(function(x), 2 * x)
    assert is_recorded(function)


@pytest.mark.parametrize(("plan", "rows"), [(RECORD_ONLY, 16), (RECORD_FIXED_BATCH, 12)])
def test_a_fixed_batch_is_not_rounded_up(plan, rows):
    seen = []

    def function(x):
        seen.append(len(x))
        return 2 * x

    recorded, x = CompiledByShape(function, plan), random(12)
    for _ in range(CALLS):
        assert torch.equal(recorded(x), 2 * x)
    assert is_recorded(recorded)
    assert seen[2:] == [rows] * len(seen[2:])


def test_threads_record_at_once():
    inputs = [random(rows) for rows in (1, 2, 4, 8)]
    barrier = threading.Barrier(len(inputs))
    found: list[bool] = []

    def record(x: torch.Tensor) -> None:
        barrier.wait()
        with torch.no_grad():
            function = CompiledByShape(doubled, RECORD_ONLY)
            right = [torch.equal(function(x), 2 * x) for _ in range(CALLS)]
        found.append(all(right) and is_recorded(function))

    threads = [threading.Thread(target=record, args=(x,)) for x in inputs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * len(inputs)
