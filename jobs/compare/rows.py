"""Our numbers beside the printed ones, row by row, and whether the two may be compared."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from jobs.compare.evaluated import Evaluated
from jobs.recipes import ENSEMBLES, RECIPES, Ensemble, default_views, find_recipe
from jobs.recipes.published import published
from jobs.recipes.registry import PrintedNumber, Recipe
from pipeline.config.base import as_dict
from pipeline.evaluation.intervals import Interval, mean_of_shares_interval
from pipeline.evaluation.report import EvalReport, protocol_name

COMPARABLE = "comparable"
NOT_RUN = "not run"
_SPLITS = "splits 1-3"
# Fields of a config that decide what is learned; where it runs and what it reads is not among them.
_SECTIONS = ("model", "clip", "optim")
_FREE = ("pretrained", "pooled_gates", "exact_literal", "recompute")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One printed number, and ours beside it."""

    recipe: str
    source: str
    """Paper, table and row."""
    what: str
    """Net or quantity, as the paper names it."""
    unit: str
    printed: float
    ours: float | None
    """In the unit of ``printed``; None where there is no run of the recipe."""
    interval: Interval | None
    """Of ours."""
    runs: tuple[str, ...]
    verdict: str
    """``comparable``, ``not run``, or why not, reasons separated by semicolons."""


def rows_of(
    recipe: str,
    runs: Sequence[Evaluated],
    *,
    mean_of_splits: bool = False,
    listed: Mapping[str, Sequence[Evaluated]] | None = None,
) -> list[Row]:
    """The rows of a recipe or ensemble.

    Args:
        recipe: name of an entry with printed numbers.
        runs: of that recipe. None: not run. Several: one row each, or one of their mean where the runs are those of a
            data set's splits, or where the paper prints the mean of several ensembles.
        mean_of_splits: whether the runs are those of a data set's splits.
        listed: recipes whose rows are shown too, in order, and their runs. A number that the paper prints of this
            recipe and of one of them together is one row, with the first of the two.
    """
    entry, rows = RECIPES.get(recipe) or ENSEMBLES[recipe], list[Row]()
    together = mean_of_splits or (isinstance(entry, Ensemble) and bool(entry.mean_of))
    order = list(listed or {})
    for number in entry.printed:
        partner = number.mean_with if number.mean_with in order else ""
        if partner and order.index(partner) < order.index(recipe):
            continue
        if number.mean_with:
            groups = [[*runs, *(listed or {}).get(partner, ())]]
        else:
            groups = [list(runs)] if together or not runs else [[run] for run in runs]
        rows += [_row(entry, number, group) for group in groups]
    return rows


def _row(entry: Recipe | Ensemble, number: PrintedNumber, runs: Sequence[Evaluated]) -> Row:
    shared: dict[str, Any] = {
        "recipe": entry.name,
        "source": entry.row,
        "what": number.what,
        "unit": number.unit,
        "printed": number.value,
        "runs": tuple(run.name for run in runs),
    }
    if number.unit != "%":
        return Row(**shared, ours=None, interval=None, verdict="measured by jobs.bench, not by an evaluation")
    if not runs:
        return Row(**shared, ours=None, interval=None, verdict=NOT_RUN)
    metric = "top5" if number.what.endswith("top-5") else "top1"
    streams = [_stream(run.report, number.what) for run in runs]
    if not all(streams):
        return Row(**shared, ours=None, interval=None, verdict=f"the model has no {number.what.split()[0]} of its own")
    shares = [run.report.scores[stream][metric] for run, stream in zip(runs, streams, strict=True)]
    counts = [(round(s * r.report.num_videos), r.report.num_videos) for s, r in zip(shares, runs, strict=True)]
    low, high = mean_of_shares_interval(counts)
    own = [
        (RECIPES.get(run.report.model, entry), run) for run in runs
    ]  # of a mean of two recipes, each is held to its own
    reasons = list(dict.fromkeys(reason for one, run in own for reason in why_not(one, run)))
    reasons += _why_not_together(entry, number, runs)
    return Row(
        **shared,
        ours=100 * statistics.fmean(shares),
        interval=(100 * low, 100 * high),
        verdict="; ".join(reasons) or COMPARABLE,
    )


def _stream(report: EvalReport, what: str) -> str:
    """The stream that the paper's name of a net means; empty: the report has none."""
    motion = [m for m in report.modalities if m != "rgb"]
    wanted = {"S-Net": "rgb", "T-Net": motion[0] if motion else ""}.get(what.split()[0], "fused")
    if report.members:  # an ensemble's number is that of the mean
        return "fused"
    return wanted if wanted in report.scores else ""


def why_not(entry: Recipe | Ensemble, run: Evaluated) -> list[str]:
    """What keeps one run's number from being held against the printed one: data, split, protocol, start, fields."""
    report, found = run.report, published(entry.data)
    reasons = []
    if found is not None:
        name = entry.data.partition(",")[0]
        if len(report.classes) != found.classes:
            reasons.append(f"data: {len(report.classes)} classes, {name} has {found.classes}")
        elif report.split != found.split:
            reasons.append(f"split: {report.split}, the paper's is {found.split}")
        elif report.num_videos not in found.videos:
            sizes = ", ".join(f"{size:,}" for size in dict.fromkeys(found.videos))
            reasons.append(f"subset: {report.num_videos:,} videos, {name} has {sizes}")
    if report.num_damaged:
        reasons.append(f"{report.num_damaged} videos could not be read")
    member = entry.name if isinstance(entry, Recipe) else entry.members[0][0]
    protocol = protocol_name(default_views(find_recipe(member)), 1)
    if report.protocol != protocol:
        reasons.append(f"protocol: {report.protocol} views x crops, the paper's is {protocol}")
    if run.config is not None and isinstance(entry, Recipe):
        config, own = run.config, as_dict(run.config)
        if entry.option and not (config.start_from or config.model.pretrained):
            reasons.append("pre-training: random weights")
        paper = as_dict(entry())
        changed = [
            f"{section}.{name} {own[section][name]} (the recipe's {value})"
            for section in _SECTIONS
            for name, value in paper[section].items()
            if name not in _FREE and own[section].get(name) != value
        ]
        if changed:
            more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
            reasons.append(f"fields: {', '.join(changed[:3])}{more}")
    return reasons


def _why_not_together(entry: Recipe | Ensemble, number: PrintedNumber, runs: Sequence[Evaluated]) -> list[str]:
    """What keeps the number of runs from being the paper's: it prints the mean of three splits, of two recipes, of
    several ensembles, or the number of one run.
    """
    if number.mean_with:
        found = sorted(run.report.model for run in runs)
        if found == sorted((entry.name, number.mean_with)):
            return []
        return [f"mean: the paper prints that of {entry.name} and {number.mean_with}, one run each"]
    if isinstance(entry, Ensemble) and entry.mean_of:
        averaged = [frozenset(member.recipe for member in run.report.members) for run in runs]
        if sorted(map(sorted, averaged)) == sorted(map(sorted, entry.mean_of)):
            return []
        pairs = " and of ".join(" + ".join(sorted(names)) for names in entry.mean_of)
        return [f"mean: the paper prints that of the ensembles of {pairs}"]
    data = {run.report.manifest_digest for run in runs}
    if _SPLITS in entry.data:
        if len(runs) == 1:
            return ["split: one of three; the paper prints their mean (--mean-of-splits)"]
        return [] if len(runs) == len(data) == 3 else [f"split: {len(data)} of three data sets"]
    return [f"{len(runs)} runs: the paper prints the number of one"] if len(runs) > 1 else []
