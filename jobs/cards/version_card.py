"""The card of a registered version, and the description of a registered model."""

from __future__ import annotations

import datetime
from collections.abc import Sequence

from jobs.cards.known import Known
from jobs.cards.markdown import code, plain, table, within
from jobs.cards.run_card import MOST, score_lines, training_rows
from jobs.evaluate.classes import ClassRow, class_rows
from pipeline.common.words import counted
from pipeline.config.train import TrainConfig
from pipeline.data.sampling.clips import span
from pipeline.evaluation.report import EvalReport
from pipeline.tracking.aliases import Move
from pipeline.tracking.links import Link
from pipeline.tracking.registry import Version

_MOST_CLASSES = 40  # by name
_EXTREMES = 5  # best and worst classes
_MOST_MOVES = 12  # of an alias, in the description


def version_card(
    known: Known, report: EvalReport, version: Version, *, licence: str = "", links: Sequence[Link] = ()
) -> str:
    """Markdown for a version's page.

    Args:
        report: of the evaluation that it was registered with.
        licence: what the user said of the data set's licence.
        links: to the pages that belong to it.
    """
    dataset = known.manifest.dataset if known.manifest else report.dataset
    where = f"{plain(dataset)} {plain(report.split)}"
    lines = [
        f"top-1 {report.score_text('fused', 'top1')} on {where}: {plain(report.model)}",
        "",
        "### What it recognises",
        f"{counted(len(report.classes), 'class', 'classes')} of {plain(dataset)}: {_names(report.classes)}."
        " Any video is given one of them; it cannot say that it shows something else.",
        "",
        "### How to load it",
        *how_to_load(version.uri),
        "",
        *score_lines(known, report),
        *_calibration(report),
        "",
        "### Best and worst classes",
        *_extremes(class_rows(report)),
        "",
        "### Data and training",
        *table(
            ("", ""),
            [
                ("Data", f"{plain(dataset)}, version {code(report.manifest_digest[:16])}"),
                ("Licence of the data", plain(licence) or "not stated; ask the data set's source before passing it on"),
                *training_rows(known),
                ("Run", code(known.folder.uri)),
                *((plain(link.what), f"[{plain(link.text)}]({link.address})") for link in links),
            ],
        ),
        "",
        "### Limits",
        *(f"* {line}" for line in _limits(report, known.config)),
    ]
    return within(lines, MOST)


def how_to_load(uri: str) -> list[str]:
    """Three lines of Python, and a command."""
    return [
        "```python",
        "import mlflow, pandas",
        f'model = mlflow.pyfunc.load_model("{uri}")',
        'model.predict(pandas.DataFrame({"video": [open("clip.mp4", "rb").read()]}))',
        "```",
        f"or, where this project is installed: {code(f'python -m jobs.predict {uri} clip.mp4')}",
    ]


def _names(classes: Sequence[str]) -> str:
    more = f" and {len(classes) - _MOST_CLASSES} more" if len(classes) > _MOST_CLASSES else ""
    return ", ".join(plain(name) for name in classes[:_MOST_CLASSES]) + more


def _calibration(report: EvalReport) -> list[str]:
    if report.calibration is None:
        return []
    return [
        f"* Expected calibration error {report.calibration.ece:.3f}: the mean distance of a probability from how often"
        " it is right"
    ]


def _extremes(rows: Sequence[ClassRow]) -> list[str]:
    known = sorted((row for row in rows if row.recall is not None), key=lambda row: (row.recall, row.name))
    if len(known) > 2 * _EXTREMES:
        known = [*known[:_EXTREMES], *known[-_EXTREMES:]]
    cells = [
        (
            plain(row.name),
            f"{row.recall:.3f} ({row.low:.3f} to {row.high:.3f})",
            str(row.videos),
            f"{plain(row.taken_for)} ({row.times})" if row.taken_for else "",
        )
        for row in reversed(known)
    ]
    return table(("class", "recall (95 %, Wilson)", "videos", "most often taken for"), cells)


def _limits(report: EvalReport, config: TrainConfig | None) -> list[str]:
    lines = [
        f"The scores are of {report.num_videos:,} videos of the split {plain(report.split)}, not of other sources;"
        " intervals cover other videos of that kind, not another training.",
        f"A prediction costs {report.protocol} passes (clips x crops) of the network.",
    ]
    if config is not None:
        frames = span(config.clip, config.model.modalities)
        lines.append(f"Videos of fewer than {frames} frames are answered from repeated frames, with a note.")
    if report.num_damaged:
        lines.append(f"{report.num_damaged} videos could not be read and count as wrong.")
    return lines


def model_card(name: str, versions: Sequence[Version], histories: dict[str, Sequence[Move]]) -> str:
    """Markdown for the page of a registered model: its aliases, who held them, and how to use it.

    Args:
        versions: all of them.
        histories: moves of each alias, oldest first.
    """
    holders = {alias: version for version in versions for alias in version.aliases}
    lines = [f"Action recognition, {counted(len(versions), 'version')}.", ""]
    if holders:
        rows = [
            (
                plain(alias),
                f"[version {v.version}](#/models/{name}/versions/{v.version})",
                plain(v.tags.get("top1", "")),
            )
            for alias, v in sorted(holders.items())
        ]
        lines += [*table(("alias", "held by", "top-1"), rows), ""]
        first = "champion" if "champion" in holders else min(holders)
        lines += [*how_to_load(f"models:/{name}@{first}"), ""]
    for alias, moves in histories.items():
        if moves:
            shown = [
                (m.version, when(m.at_ms), plain(m.how), plain(m.by), plain(m.why))
                for m in reversed(moves[-_MOST_MOVES:])
            ]
            heads = ("version", "since", "how", "by", "why")
            lines += [f"### Who held {plain(alias)}, latest first", "", *table(heads, shown), ""]
    return within(lines, MOST)


def when(at_ms: int) -> str:
    """Time in UTC; empty for 0, which is unknown."""
    return f"{datetime.datetime.fromtimestamp(at_ms / 1000, datetime.UTC):%Y-%m-%d %H:%M} UTC" if at_ms else ""
