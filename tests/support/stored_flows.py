"""Flow by OpenCV for tests of other engines, from a file where this machine's OpenCV lacks TV-L1.

    python -m tests.support.stored_flows flows.npz      # what tests/unit/preprocessing/flow/test_gpu.py asks for

The tests find the file through RECIPROCAL_FLOWS.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from preprocessing.flow.opencv import OpenCVTVL1
from preprocessing.flow.params import TVL1Params
from tests.support.paths import ROOT


def opencv_flow(clip: np.ndarray, params: TVL1Params | None = None) -> np.ndarray:
    """As ``OpenCVTVL1.flow``; the test is skipped, and says so, where neither OpenCV's TV-L1 nor a file is there."""
    if hasattr(cv2, "optflow"):
        return OpenCVTVL1(params).flow(clip)
    file = os.environ.get("RECIPROCAL_FLOWS", "")
    if not file:
        pytest.skip("this OpenCV lacks TV-L1, and RECIPROCAL_FLOWS names no file (tests.support.stored_flows makes it)")
    with np.load(file) as stored:
        return stored[_key(clip, params)]


def _key(clip: np.ndarray, params: TVL1Params | None) -> str:
    return hashlib.sha256(clip.tobytes() + repr(params or TVL1Params()).encode()).hexdigest()[:16]


def main() -> None:
    """Add to the file the flows of the GPU tests' clips."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="the .npz file")
    file = parser.parse_args().file
    path = ROOT / "tests/unit/preprocessing/flow/test_gpu.py"
    spec = importlib.util.spec_from_file_location("test_gpu", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = dict(np.load(file)) if file.exists() else {}
    for clip, params in module.against_opencv():
        found[_key(clip, params)] = OpenCVTVL1(params).flow(clip)
    np.savez_compressed(file, **found)


if __name__ == "__main__":
    main()
