"""What ``jobs.ablations`` concludes from its trainings: means, intervals, corrected comparisons, as tables and JSON."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Column, Table

from jobs.ablations.questions import Contrast, Question
from jobs.ablations.statistics import (
    CONFIDENCE,
    bootstrap_interval,
    has_learned,
    holm,
    sign_flip_p,
    units_needed,
)
from jobs.recipes.listing import print_wide

WHOLE = "fused"
TITLES = {"rgb": "S-Net (RGB)", "flow": "T-Net (flow)", WHOLE: "mean / whole"}
Results = Mapping[str, Sequence[Mapping[str, Any]]]
"""Variant -> its results, by seed and fold in ascending order, as ``training.train_and_test`` returns them."""


@dataclasses.dataclass(frozen=True)
class Score:
    """Top-1 of one stream of a variant, in [0, 1]."""

    variant: str
    stream: str
    mean: float
    sd: float | None
    """Sample standard deviation (n - 1) over units; None with one."""
    low: float
    high: float
    """Bootstrap interval of 95 % of the mean."""
    learned: float
    """Share of the trainings above chance (binomial test at 1 %)."""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Top-1 of the whole network: a contrast's ``higher`` minus its ``lower``, unit by unit."""

    title: str
    paper: bool
    difference: float
    low: float
    high: float
    """Paired bootstrap interval of 95 % of the mean difference."""
    p: float
    """Exact sign-flip test over units."""
    corrected_p: float
    """The same after Holm's correction over all comparisons of the question."""
    units: int
    units_needed: int | None
    """To show this difference; see ``statistics.units_needed``."""

    @property
    def verdict(self) -> str:
        """as the paper | the opposite, for what the paper's tables rank; higher | lower for controls; undecided.

        Decided: the corrected p value is below 0.05, and the interval excludes zero.
        """
        if self.corrected_p >= 1 - CONFIDENCE or self.low <= 0 <= self.high:
            return "undecided"
        above, below = ("as the paper", "the opposite") if self.paper else ("higher", "lower")
        return above if self.difference > 0 else below


def correct_matrix(results: Sequence[Mapping[str, Any]], stream: str) -> np.ndarray:
    """(U, V): right (1) or wrong (0) of every unit's test videos; with folds (F, 1): a fold's top-1, over its seeds."""
    if not results[0]["fold"]:
        return np.array([[float(c) for c in result["correct"][stream]] for result in results])
    folds: dict[str, list[float]] = {}
    for result in results:
        folds.setdefault(result["fold"], []).append(result["top1"][stream])
    return np.array([[statistics.fmean(values)] for _, values in sorted(folds.items())])


def score(question: Question, results: Results, variant: str, stream: str) -> Score:
    """One stream of one variant."""
    taken = results[variant]
    values_UV = correct_matrix(taken, stream)
    means = values_UV.mean(1).tolist()
    chance = 1 / len(question.classes)
    learned = [has_learned(r["correct"][stream].count("1"), len(r["correct"][stream]), chance) for r in taken]
    return Score(
        variant,
        stream,
        statistics.fmean(means),
        statistics.stdev(means) if len(means) > 1 else None,
        *bootstrap_interval(values_UV, crossed=not question.folds),
        statistics.fmean(learned),
    )


def differences(results: Results, contrast: Contrast) -> np.ndarray:
    """(U, V), higher minus lower; a side of several variants counts with their mean."""
    higher, lower = (
        np.mean([correct_matrix(results[name], WHOLE) for name in side], axis=0)
        for side in (contrast.higher, contrast.lower)
    )
    return higher - lower


def compare(question: Question, results: Results) -> list[Comparison]:
    """All comparisons of a question, corrected together."""
    apart = [differences(results, contrast) for contrast in question.contrasts]
    p_values = [sign_flip_p(values.mean(1).tolist()) for values in apart]
    return [
        Comparison(
            contrast.title,
            contrast.paper,
            float(values.mean()),
            *bootstrap_interval(values, crossed=not question.folds),
            p,
            corrected,
            len(values),
            units_needed(values.mean(1).tolist()),
        )
        for contrast, values, p, corrected in zip(question.contrasts, apart, p_values, holm(p_values), strict=True)
    ]


def streams_of(results: Results, variant: str) -> list[str]:
    """Streams that a variant has scores for: with fusion, or with one modality, the whole network alone."""
    found = list(results[variant][0]["top1"])
    return [WHOLE] if WHOLE in found and len(found) == 2 else found


def as_json(question: Question, results: Results) -> dict[str, Any]:
    """All results and conclusions, as JSON values."""
    return {
        "question": question.text,
        "source": question.source,
        "confidence": CONFIDENCE,
        "chance": 1 / len(question.classes),
        "titles": {variant.name: variant.title for variant in question.variants},
        "scores": [
            dataclasses.asdict(score(question, results, v.name, stream))
            for v in question.variants
            for stream in streams_of(results, v.name)
        ],
        "comparisons": [{**dataclasses.asdict(c), "verdict": c.verdict} for c in compare(question, results)],
        "results": {name: list(taken) for name, taken in results.items()},
    }


def show(console: Console, summary: Mapping[str, Any]) -> None:
    """Print the means and the comparisons of a question, from what ``as_json`` returns."""
    streams = [stream for stream in TITLES if any(s["stream"] == stream for s in summary["scores"])]
    table = Table(
        Column("variant", no_wrap=True),
        *(TITLES.get(stream, stream) for stream in streams),
        "learned",
        "M params",
        title=f"{summary['question']} ({summary['source']}; chance {100 * summary['chance']:.1f})",
        title_justify="left",
        box=None,
        padding=(0, 2, 0, 0),
    )
    for name, title in summary["titles"].items():
        scores = {s["stream"]: s for s in summary["scores"] if s["variant"] == name}
        cells = [interval_text(scores[stream]) if stream in scores else "" for stream in streams]
        learned = max(s["learned"] for s in scores.values())
        table.add_row(title, *cells, f"{100 * learned:.0f} %", f"{summary['results'][name][0]['params'] / 1e6:.2f}")
    print_wide(console, table)
    for c in summary["comparisons"]:
        console.print("  " + comparison_text(c), markup=False, soft_wrap=True)


def interval_text(score: Mapping[str, Any]) -> str:
    """A mean in per cent and its interval: ``98.3 (97.1 to 99.0)``."""
    return f"{100 * score['mean']:.1f} ({100 * score['low']:.1f} to {100 * score['high']:.1f})"


def comparison_text(c: Mapping[str, Any]) -> str:
    """One comparison in a line."""
    text = (
        f"{c['title']}: {100 * c['difference']:+.1f} points"
        f" ({100 * c['low']:+.1f} to {100 * c['high']:+.1f}), p {c['corrected_p']:.3f} after Holm: {c['verdict']}"
    )
    if c["verdict"] == "undecided" and c["units_needed"]:
        text += f"; this difference would take about {c['units_needed']} seeds or folds, not {c['units']}"
    return text
