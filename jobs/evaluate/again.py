"""The command line that makes a report."""

from __future__ import annotations


def evaluate_command(run: str, split: str, num_views: int, num_crops: int, *, again: bool = False) -> str:
    """The command line that writes a report; ``num_views`` 0 is the paper's number."""
    views = f" --num-views {num_views}" if num_views else ""
    crops = f" --num-crops {num_crops}" if num_crops != 1 else ""
    return f"python -m jobs.evaluate {run} --split {split}{views}{crops}{' --again' if again else ''}"
