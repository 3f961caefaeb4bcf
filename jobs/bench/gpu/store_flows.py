"""Store pairs of real frames and their flow by OpenCV, for machines whose OpenCV lacks TV-L1.

    python -m jobs.bench.gpu.store_flows --videos DIR --out flows.npz

Writes  gray (N, 2, H, W) uint8; flow (N, 2, H, W) float16, of OpenCV's defaults; iterations_MODE, the mean number of
        iterations over whole pictures, by the numba engine; and the pairs of ``tests/unit/preprocessing/flow/test_gpu``
        with their flows.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from preprocessing.flow.factory import flow_engine
from preprocessing.flow.opencv import OpenCVTVL1
from preprocessing.flow.pairs import pick_pairs


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser("python -m jobs.bench.gpu.store_flows", description=__doc__)
    parser.add_argument("--videos", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=6)
    args = parser.parse_args()
    gray = pick_pairs(args.videos, args.pairs, (340, 256)).gray_N2HW
    found = {"gray": gray, "flow": np.concatenate([OpenCVTVL1().flow(pair) for pair in gray]).astype(np.float16)}
    for mode in ("tvl1", "tvl1-fast"):
        engine, counted = flow_engine("numba", mode), []
        for pair in gray:
            engine.flow(pair)
            counted += getattr(engine, "iterations", [])
        found[f"iterations_{mode}"] = np.array(np.mean(counted))
    np.savez_compressed(args.out, **found)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
