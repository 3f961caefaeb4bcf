"""The description of a run: what was trained on what, how well it does, where it went."""

from __future__ import annotations

from collections.abc import Sequence

from jobs.cards.known import Known
from jobs.cards.markdown import code, plain, table, within
from jobs.compare.rows import rows_of
from jobs.evaluate.publish import artifact_name
from jobs.recipes import ENSEMBLES, RECIPES
from pipeline.common.words import counted
from pipeline.config.train import TrainConfig
from pipeline.evaluation.report import METRICS, STREAM_NAMES, EvalReport
from pipeline.tracking.links import Link

MOST = 5000
"""Characters of a description that every tracking server takes."""


def run_card(known: Known, links: Sequence[Link] = ()) -> str:
    """Markdown for a run's page.

    Args:
        links: to the pages that belong to it: where its data set was made, versions registered from it.
    """
    rows = [*_data_rows(known), *training_rows(known), ("Folder", code(known.folder.uri))]
    rows += [(plain(link.what), f"[{plain(link.text)}]({link.address})") for link in links]
    lines = [*_heading(known), "", *table(("", ""), rows)]
    for report in known.reports:
        lines += ["", *score_lines(known, report)]
    return within(lines, MOST)


def _heading(known: Known) -> list[str]:
    name = known.config.recipe if known.config else (known.reports[0].model if known.reports else "ensemble")
    entry = RECIPES.get(name) or ENSEMBLES.get(name)
    paper = f": {plain(entry.row)}; printed {plain(', '.join(map(str, entry.printed)))}" if entry and entry.row else ""
    scores = [f"{plain(r.split)} top-1 {r.score_text('fused', 'top1')}, {r.protocol} views" for r in known.reports]
    return [f"**{plain(name or 'no recipe')}**{paper}", *(["", "; ".join(scores)] if scores else [])]


def _data_rows(known: Known) -> list[tuple[str, str]]:
    digest = (
        known.record.manifest_digest if known.record else (known.reports[0].manifest_digest if known.reports else "")
    )
    if known.manifest is None or known.config is None:
        return [("Data set", code(digest[:16]))] if digest else []
    sizes = ", ".join(f"{name} {size:,}" for name, size in known.manifest.split_sizes().items())
    what = f"{plain(known.manifest.dataset)}, {counted(len(known.manifest.classes), 'class', 'classes')} ({sizes})"
    return [("Data set", what), ("Data version", f"{code(digest[:16])} at {code(known.config.data.uri)}")]


def training_rows(known: Known) -> list[tuple[str, str]]:
    """How it was trained, as rows of a table; of an ensemble, what it averages."""
    rows = []
    if known.config:
        rows.append(("Training", _training(known.config)))
        rows.append(("Weights at the start", _start(known.config)))
    for report in known.reports[:1]:
        if report.members:
            rows.append(("Mean of", ", ".join(f"{code(m.name)} ({plain(m.recipe)})" for m in report.members)))
    if known.result:
        rows.append(("Time", f"{_duration(known.result['seconds'])}; result {code(known.result['checkpoint'])}"))
    if known.record:
        rows.append(("Code", code(known.record.code_version)))
    return rows


def _training(config: TrainConfig) -> str:
    optim, clip = config.optim, config.clip
    return (
        f"{counted(optim.epochs, 'epoch')}, batch {config.data.batch_size}, {optim.name} at {optim.lr:g}; clips of"
        f" {counted(clip.num_frames, 'frame')}, {clip.crop}x{clip.crop}, {' + '.join(config.model.modalities)}"
    )


def _start(config: TrainConfig) -> str:
    if config.start_from:
        return f"of the run {code(config.start_from)}"
    pretrained = getattr(config.model, "pretrained", "")
    return code(pretrained) if pretrained else "random"


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{seconds:.0f} s"


def score_lines(known: Known, report: EvalReport) -> list[str]:
    """Scores of one evaluation with intervals, and the paper's numbers beside them."""
    title = f"### {plain(report.split)}, {report.protocol} views"
    videos = f"{report.num_videos:,} videos" + (f", {report.num_damaged} of them damaged" if report.num_damaged else "")
    streams = list(dict.fromkeys((*report.branches, "fused")))
    rows = [
        (plain(STREAM_NAMES.get(stream, stream)), *(report.score_text(stream, metric) for metric in METRICS))
        for stream in streams
    ]
    lines = [title, "", *table((videos, "top-1 (95 %)", "top-5", "mean class accuracy"), rows), ""]
    if report.model in {**RECIPES, **ENSEMBLES}:
        lines += [
            f"* {plain(row.source)}, {plain(row.what)}: printed {row.printed:g}, here {row.ours:.2f}:"
            f" {plain(row.verdict)}"
            for row in rows_of(report.model, [known.evaluated(report)])
            if row.ours is not None
        ]
    return [*lines, f"* All of it: artifact {code(artifact_name(report, 'html'))}"]
