"""Connected regions of a small mask."""

from __future__ import annotations

import numpy as np


def connected_regions(mask: np.ndarray) -> np.ndarray:
    """(H, W) bool -> (H, W) int32: each 4-connected region's number, 1 for the largest; 0 outside.

    Works on runs of each row rather than on pixels, so a picture takes a fraction of a millisecond.
    """
    padded = np.zeros((mask.shape[0], mask.shape[1] + 2), np.int8)
    padded[:, 1:-1] = mask
    steps = padded[:, 1:] - padded[:, :-1]
    rows, starts = np.nonzero(steps == 1)  # (R,) runs, row by row
    ends = np.nonzero(steps == -1)[1]
    regions = np.zeros(mask.shape, np.int32)
    if not len(rows):
        return regions
    roots = _join(rows, starts.tolist(), ends.tolist(), len(mask))
    lengths = ends - starts
    order = np.argsort(-np.bincount(roots, lengths, minlength=len(rows)), kind="stable")
    number = np.empty(len(rows), np.int32)
    number[order] = np.arange(1, len(rows) + 1)
    regions[mask] = np.repeat(number[roots], lengths)
    return regions


def _join(rows: np.ndarray, starts: list[int], ends: list[int], height: int) -> np.ndarray:
    """For each run the first run of its region: union-find over runs that touch from row to row."""
    parent = list(range(len(starts)))

    def root(run: int) -> int:
        while parent[run] != run:
            parent[run] = parent[parent[run]]
            run = parent[run]
        return run

    first = np.searchsorted(rows, np.arange(height + 1)).tolist()
    for row in range(1, height):
        above, here = first[row - 1], first[row]
        while above < first[row] and here < first[row + 1]:
            if starts[above] < ends[here] and starts[here] < ends[above]:
                one, other = sorted((root(above), root(here)))
                parent[other] = one
            if ends[above] < ends[here]:
                above += 1
            else:
                here += 1
    return np.array([root(run) for run in range(len(starts))])
