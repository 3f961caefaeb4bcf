"""The result of an evaluation, and whether two of them can be compared."""

from __future__ import annotations

import dataclasses
import json

from pipeline.common.strict_json import MAX_BYTES, JsonError, read_json
from pipeline.common.typed import Count
from pipeline.errors import UserError
from pipeline.evaluation.calibration import Calibration
from pipeline.evaluation.intervals import Interval, share_interval
from pipeline.storage import Storage

STREAM_NAMES = {
    "rgb": "S-Net (rgb)",
    "flow": "T-Net (flow)",
    "diff": "T-Net (diff)",
    "diff-online": "T-Net (diff-online)",
    "fused": "fused",
}

METRICS = ("top1", "top5", "mean_class")
SPLITS = ("test", "val")
"""To evaluate on, where none is named: the first that a data set has. Kinetics and Moments in Time publish no labels of
their test videos.
"""


def protocol_name(num_views: int, num_crops: int) -> str:
    """VIEWSxCROPS: ``4x1``, ``10x3``."""
    return f"{num_views}x{num_crops}"


def report_path(split: str, protocol: str, ending: str = "json") -> str:
    """Path in the folder of a run or an ensemble. ``json``: the report, ``png``: its confusion matrix, ``npz``: its
    predictions.
    """
    return f"evaluations/{split}_{protocol}.{ending}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class EnsembleInput:
    """One network whose probabilities an ensemble averages."""

    name: str
    """Run id and branch; the name of its stream in the report."""
    run: str  # URI
    branch: str
    recipe: str
    checkpoint: str
    predictions: str  # sha256 of the predictions that were averaged


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvalReport:
    """Scores of one model, or of an ensemble, on one split under one protocol.

    ``scores`` has top1, top5 and mean_class (mean class accuracy), in [0, 1], of every stream: the modality of each
    branch, or the name of each input of an ensemble, and ``fused``. A model with one head for several modalities has
    only ``fused``. ``protocol`` is VIEWSxCROPS and part of every metric's name, such as test/top1_4x1. Reports of older
    code have neither mean_class nor intervals nor calibration.
    """

    run_id: str
    model: str  # recipe
    modalities: tuple[str, ...]
    dataset: str
    manifest_digest: str
    split: str
    protocol: str
    num_videos: Count
    num_damaged: Count
    classes: tuple[str, ...]
    scores: dict[str, dict[str, float]]
    per_class: tuple[float | None, ...]  # recall of the fused prediction
    confusion: tuple[tuple[int, ...], ...]  # fused; row true, column predicted
    checkpoint: str  # empty for an ensemble
    code_version: str
    seconds: float
    predictions: str = ""  # sha256 of the predictions next to the report; empty in reports of older code
    members: tuple[EnsembleInput, ...] = ()  # of an ensemble; the name is that of the stored JSON
    intervals: dict[str, dict[str, Interval]] = dataclasses.field(default_factory=dict)
    """Bootstrap interval of 95 % over videos of each of ``scores``."""
    calibration: Calibration | None = None
    """Of the fused prediction."""

    @property
    def branches(self) -> tuple[str, ...]:
        """Names of the streams whose probabilities are averaged, in order."""
        return (
            tuple(m.name for m in self.members) or tuple(m for m in self.modalities if m in self.scores) or ("fused",)
        )

    @property
    def top1(self) -> float:
        """Top-1 accuracy of the fused prediction, which decides a promotion."""
        return self.scores["fused"]["top1"]

    def score_text(self, stream: str, name: str) -> str:
        """A score and its interval for a person: ``0.8889 (0.7778 to 0.9722)``; ``-`` where an old report lacks it."""
        if name not in self.scores[stream]:
            return "-"
        text = f"{self.scores[stream][name]:.4f}"
        bounds = self.intervals.get(stream, {}).get(name)
        return f"{text} ({bounds[0]:.4f} to {bounds[1]:.4f})" if bounds else text

    def metrics(self) -> dict[str, float]:
        """Flat metrics with the protocol in their names: ``test/top1_4x1`` (fused), ``test/rgb/top1_4x1``, ..."""
        flat = {}
        for stream, values in self.scores.items():
            prefix = self.split if stream == "fused" else f"{self.split}/{stream}"
            flat.update({f"{prefix}/{name}_{self.protocol}": value for name, value in values.items()})
        for name, (low, high) in self.intervals.get("fused", {}).items():
            flat.update(
                {f"{self.split}/{name}_{self.protocol}_low": low, f"{self.split}/{name}_{self.protocol}_high": high}
            )
        if self.calibration:
            flat[f"{self.split}/ece_{self.protocol}"] = self.calibration.ece
        return flat

    def to_json(self) -> str:
        fields = dataclasses.asdict(self)
        for name in (
            "predictions",
            "members",
            "intervals",
            "calibration",
        ):  # absent rather than empty, as in reports of older code
            if not fields[name]:
                del fields[name]
        return json.dumps(fields, sort_keys=True, indent=1) + "\n"

    @classmethod
    def from_json(cls, data: bytes | str, where: str = "the report") -> EvalReport:
        """Parse a report. Raises UserError, which names ``where``, if it is not one."""
        try:
            report = read_json(cls, data, where)
        except JsonError as error:
            raise UserError(f"not an evaluation report: {error}") from error
        size = len(report.classes)
        if len(report.confusion) != size or any(len(row) != size for row in report.confusion):
            raise UserError(f"not an evaluation report: {where}: confusion is not {size}x{size}, as it has classes")
        for stream in {"fused": {}, **report.scores}:
            if not {"top1", "top5"} <= report.scores.get(stream, {}).keys():
                raise UserError(f"not an evaluation report: {where}: scores lack top1 or top5 of {stream!r}")
        return report


def evaluated_split(folder: Storage, protocol: str) -> str:
    """The split of a folder's evaluation under a protocol: test where there is one, else val; test if there is none."""
    found = (split for split in SPLITS if folder.exists(report_path(split, protocol)))
    return next(found, SPLITS[0])


def read_report(folder: Storage, split: str, protocol: str, again: str) -> EvalReport:
    """The report in the folder of a run or an ensemble.

    Args:
        again: the command that writes it again.

    Raises:
        NotFoundError: there is none.
        UserError: it is damaged; says ``again``.
    """
    path = report_path(split, protocol)
    data = folder.read(path, MAX_BYTES)
    try:
        return EvalReport.from_json(data, f"{folder.uri}/{path}")
    except UserError as error:
        raise UserError(f"{error}; run `{again}`") from error


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Whether an alias moves to the candidate, and why."""

    promote: bool
    why: str


def compare(candidate: EvalReport, current: EvalReport | None, min_gain: float = 0.0) -> Comparison:
    """Decide a promotion: same data, split and protocol, all videos readable, a fused top-1 that is higher by
    ``min_gain`` at least, and a lower bound of its interval that is not worse.

    Args:
        candidate: report of the version to promote.
        current: report of the version that has the alias; None if no version has it.
        min_gain: in [0, 1]; whatever it is, the candidate's top-1 must be higher.
    """
    if candidate.num_damaged:
        return Comparison(
            False,
            f"{candidate.num_damaged} of {candidate.num_videos} videos could not be read: its accuracy is incomplete",
        )
    if current is None:
        return Comparison(True, "no version has the alias yet")
    for name in ("manifest_digest", "split", "protocol"):
        ours, theirs = getattr(candidate, name), getattr(current, name)
        if ours != theirs:
            return Comparison(
                False,
                f"{name} differs: candidate {ours}, current version {theirs};"
                " evaluate both on the same data and protocol",
            )
    scores = f"top-1 {candidate.top1:.4f} against the current version's {current.top1:.4f}"
    text = f"{scores} ({candidate.split}, {candidate.protocol})"
    low, theirs = _lower_bound(candidate), _lower_bound(current)
    if low < theirs:
        return Comparison(
            False, f"{text}; the lower bound of its interval is {low:.4f}, the current one's {theirs:.4f}"
        )
    gain = candidate.top1 - current.top1
    if gain > 0 and round(gain, 9) < min_gain:
        return Comparison(False, f"{text}: a gain of {gain:.4f}, and at least {min_gain:g} is asked for")
    return Comparison(gain > 0, text)


def _lower_bound(report: EvalReport) -> float:
    """Of the fused top-1; computed for reports of older code."""
    found = report.intervals.get("fused", {}).get("top1")
    return (found or share_interval(round(report.top1 * report.num_videos), report.num_videos))[0]
