"""The questions of ``jobs.ablations``: which variants answer each, on which data, and what the paper says."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

from jobs.ablations.variants import Budget, Fold, Variant, crn, mrst

QuestionName = Literal["coupling", "rib", "strategy", "mrst", "real"]


@dataclasses.dataclass(frozen=True)
class Contrast:
    """A comparison of two sides, each a variant or the mean of several."""

    lower: tuple[str, ...]
    higher: tuple[str, ...]
    paper: bool = True
    """Whether the paper's tables put ``higher`` above ``lower``; False: a control of ours, without an expectation."""

    @property
    def title(self) -> str:
        """Such as ``crn - ncrn``."""
        return f"{_side(self.higher)} - {_side(self.lower)}"


def _side(names: Sequence[str]) -> str:
    """A variant's name; of several what their names begin with."""
    return names[0] if len(names) == 1 else names[0].partition("@")[0]


@dataclasses.dataclass(frozen=True)
class Start:
    """A training before the others, one for each seed: its backbones' weights are what they all start from."""

    data: str
    """How to make the data set that it is meant for."""
    classes: tuple[str, ...]
    """Of that data set."""
    variant: Variant
    budget: Budget


@dataclasses.dataclass(frozen=True)
class Question:
    """A question, the paper's answer to it, and the trainings that ask it again."""

    name: QuestionName
    text: str
    source: str
    data: str
    """How to make the data set that it is meant for."""
    classes: tuple[str, ...]
    """Of that data set."""
    variants: tuple[Variant, ...]
    contrasts: tuple[Contrast, ...]
    """Of whole networks, not of their streams too: each comparison costs all the others power (Holm's correction)."""
    budget: Budget
    start: Start | None = None
    """None: all start from random weights."""
    folds: tuple[Fold, ...] = ()
    """Leave-one-out: every fold is a training, tested on what it leaves out. None: tests on the split ``test``."""
    fold_pattern: str = ""
    """``data.val_group`` that finds a fold's sources."""

    def variant(self, name: str) -> Variant:
        """By its name."""
        return next(variant for variant in self.variants if variant.name == name)


def _pairs(*names: tuple[str, str], paper: bool = True) -> tuple[Contrast, ...]:
    return tuple(Contrast((lower,), (higher,), paper) for lower, higher in names)


_BINDING = ("dots_rise_checks_sink", "dots_sink_checks_rise")
_BINDING_DATA = (
    "python -m preprocessing.synthetic DIR --task binding --train 300 --val 0 --test 100 --min-frames 12"
    " --max-frames 14; stored.short-side 128, stored.modalities rgb flow"
)
_STREAMS_FIRST = Start(
    "python -m preprocessing.synthetic DIR --task parts --train 150 --val 0 --test 25 --min-frames 12 --max-frames 14;"
    " stored.short-side 128, stored.modalities rgb flow",
    ("dots_rise", "dots_sink", "checks_rise", "checks_sink"),
    crn("start", "two streams, one object", partner="off", rib="none"),
    Budget(crop=112, epochs=8, batch_size=8, lr=1e-3),
)
_DISTRACTORS = tuple(f"{a}_{m}" for a in ("stripes", "dots", "rings") for m in ("sway", "bob", "swell"))
_DISTRACTORS_DATA = (
    "python -m preprocessing.synthetic DIR --task distractors --train 120 --val 0 --test 30 --min-frames 10"
    " --max-frames 12; stored.short-side 72, stored.modalities rgb"
)
_UT_INTERACTION = ("handshake", "hug", "kick", "point", "punch", "push")
_OFF: dict[str, Any] = {"partner": "off", "rib": "none"}
_CRN = crn("crn", "CRN: the other's hidden state, RIB")
_RELATIVES = (
    crn("plain", "two streams, no partner", **_OFF),
    crn("ncrn", "N-CRN: own hidden state", partner="self", rib="none"),
    crn("ncrn-rib", "N-CRN with RIB: as large as CRN", partner="self"),
    crn("late", "late fusion", fusion="late", **_OFF),
    crn("early", "early fusion", fusion="early", **_OFF),
    _CRN,
)
_COUPLING = (
    *_pairs(("ncrn", "crn"), ("late", "crn"), ("early", "crn")),
    *_pairs(("ncrn-rib", "crn"), ("plain", "crn"), ("ncrn", "ncrn-rib"), paper=False),
)
_RATES = ("0.003", "0.01", "0.03")
_STRATEGIES = {"b": "every step", "a": "the last step", "d": "the last and two others", "c": "the last and one other"}


def _strategies(letter: str) -> tuple[str, ...]:
    return tuple(f"strategy-{letter}@{rate}" for rate in _RATES)


QUESTIONS: dict[str, Question] = {
    question.name: question
    for question in (
        Question(
            "coupling",
            "Does coupling join what averaging cannot?",
            "CRN Tables 3 and 4",
            _BINDING_DATA,
            _BINDING,
            _RELATIVES,
            _COUPLING,
            Budget(crop=112, epochs=5, batch_size=8, lr=5e-4, backbone_share=0.2),
            _STREAMS_FIRST,
        ),
        Question(
            "rib",
            "Does interpretation help?",
            "CRN Table 1",
            _BINDING_DATA,
            _BINDING,
            (
                crn("no-rib", "CRN without RIB", rib="none"),
                crn("srib", "CRN, sRIB: one 3x3", rib="srib"),
                crn("srib-wide", "CRN, sRIB, f = 34: parameters of RIB", rib="srib", hidden=34, adapted=34),
                crn("rib-111", "CRN, RIB without dilation", rib_dilations=(1, 1, 1)),
                _CRN,
            ),
            (
                *_pairs(("no-rib", "crn"), ("srib", "crn"), ("no-rib", "srib")),
                *_pairs(("srib-wide", "crn"), ("rib-111", "crn"), paper=False),
            ),
            # Shorter than for coupling, where all of these end at the ceiling.
            Budget(crop=112, epochs=3, batch_size=8, lr=5e-4, backbone_share=0.2),
            _STREAMS_FIRST,
        ),
        Question(
            "strategy",
            "Which steps should be supervised?",
            "CRN Table 2",
            _BINDING_DATA,
            _BINDING,
            tuple(
                crn(
                    f"strategy-{letter}@{rate}",
                    f"{letter}: {what}, rate {rate}",
                    strategy=letter,
                    num_steps=10,
                    lr=float(rate),
                )
                for letter, what in _STRATEGIES.items()
                for rate in _RATES
            ),
            tuple(Contrast(_strategies(lower), _strategies("c")) for lower in "bad"),
            Budget(crop=112, epochs=3, batch_size=8, optimizer="sgd", weight_decay=5e-4, backbone_share=0.2),
            _STREAMS_FIRST,
        ),
        Question(
            "mrst",
            "Does mutual reinforcement help?",
            "MRST Table 2",
            _DISTRACTORS_DATA,
            _DISTRACTORS,
            (
                mrst("STD", "STD: S + T"),
                mrst("STF", "STD with STF: gates of their own"),
                mrst("S", "MRST-S"),
                mrst("P", "MRST-P"),
                mrst("T", "MRST-T"),
            ),
            _pairs(
                ("mrst-std", "mrst-stf"),
                ("mrst-stf", "mrst-t"),
                ("mrst-std", "mrst-t"),
                ("mrst-s", "mrst-t"),
                ("mrst-p", "mrst-t"),
            ),
            Budget(crop=64, epochs=16, lr=5e-3),
        ),
        Question(
            "real",
            "Does coupling help on real videos?",
            "CRN Tables 3 and 4",
            "UT-Interaction, all 120 videos in the split train; stored.short-side 128, stored.modalities rgb flow",
            _UT_INTERACTION,
            _RELATIVES,
            _COUPLING,
            Budget(crop=112, epochs=40),
            None,
            tuple(Fold(f"{n:02d}+{n + 10}", (f"seq{n:02d}", f"seq{n + 10}")) for n in range(1, 11)),
            r"seq\d\d",
        ),
    )
}
