"""What a recipe is, and where recipes are found by name."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable
from typing import Literal, overload

from pipeline.config.model import CRNConfig
from pipeline.config.train import TrainConfig
from pipeline.errors import UserError

Build = Callable[[], TrainConfig]
Option = Literal["", "model.pretrained", "start_from"]


@dataclasses.dataclass(frozen=True)
class PrintedNumber:
    """One number of a paper: top-1 in percent unless ``unit`` says otherwise."""

    what: str
    """Net or quantity: "S-Net", "T-Net", "S+T" (mean of the two branches), "top-1", "size"."""
    value: float
    unit: str = "%"

    def __str__(self) -> str:
        if self.unit != "%":
            return f"{self.what} {self.value:g} {self.unit}"
        return (  # as printed: 59.0, 27.32
            f"{self.what} {self.value:.{1 if round(self.value, 1) == self.value else 2}f}%"
        )


@dataclasses.dataclass(frozen=True)
class Family:
    """What a group of recipes shares: its source, what the source states, and what we chose where it is silent
    (with reasons).
    """

    source: str
    stated: tuple[str, ...]
    choices: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A named training: call it for its TrainConfig.

    ``__doc__`` of an instance is its summary.
    """

    name: str
    summary: str
    build: Build
    data: str = "any"
    """Data set and split(s) it is meant for; the user gives the URI."""
    row: str = ""
    """Table and row of the paper; empty for recipes that stand in none."""
    printed: tuple[PrintedNumber, ...] = ()
    family: Family | None = None
    start: str = "fresh weights"
    """What the paper starts the training from, and the option to give."""
    option: Option = ""
    """The field that has to name it; empty: none, it starts from fresh weights."""
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "__doc__", self.summary)

    def __call__(self) -> TrainConfig:
        """The whole config, with the recipe's name in it."""
        return dataclasses.replace(self.build(), recipe=self.name)


@dataclasses.dataclass(frozen=True)
class Ensemble:
    """A row of a paper that is no training: the mean of class probabilities of trainings that are."""

    name: str
    summary: str
    data: str
    row: str
    printed: tuple[PrintedNumber, ...]
    members: tuple[tuple[str, str], ...]
    """Recipe and branch (rgb, flow, diff, or all) of every net whose probabilities are averaged."""
    notes: tuple[str, ...] = ()


RECIPES: dict[str, Recipe] = {}
ENSEMBLES: dict[str, Ensemble] = {}


def register(entry: Recipe) -> Recipe:
    """Add a recipe; two of one name are a mistake in this package (ValueError)."""
    if entry.name in RECIPES:
        raise ValueError(f"recipe {entry.name} is there twice")
    RECIPES[entry.name] = entry
    return entry


def register_ensemble(entry: Ensemble) -> None:
    """Add an ensemble of recipes that are registered already (ValueError where they are not)."""
    missing = [name for name, _ in entry.members if name not in RECIPES]
    if missing or entry.name in ENSEMBLES or entry.name in RECIPES:
        raise ValueError(f"ensemble {entry.name}: twice, or members unknown: {missing}")
    ENSEMBLES[entry.name] = entry


@overload
def recipe(function: Build) -> Recipe: ...
@overload
def recipe(*, data: str) -> Callable[[Build], Recipe]: ...
def recipe(function: Build | None = None, *, data: str = "any") -> Recipe | Callable[[Build], Recipe]:
    """Register a function that returns a TrainConfig under its own name; the first line of its docstring is the
    summary.
    """

    def wrap(build: Build) -> Recipe:
        return register(Recipe(build.__name__, (build.__doc__ or "").strip().splitlines()[0], build, data))

    return wrap if function is None else wrap(function)


def find_recipe(name: str) -> TrainConfig:
    """The config of the recipe of that name. Raises UserError: an unknown name (with the nearest ones), or an
    ensemble (with its members).
    """
    if name in RECIPES:
        return RECIPES[name]()
    if name in ENSEMBLES:
        raise UserError(
            f"{name} is no training but the mean of several: train"
            f" {', '.join(member for member, _ in ENSEMBLES[name].members)}, then `python -m jobs.ensemble RUN RUN"
            f" --recipe {name}`"
        )
    raise UserError(
        f"unknown recipe {name!r}: did you mean {', '.join(nearest(name))}? `python -m jobs.train --list` shows all"
    )


def missing_start(config: TrainConfig) -> str:
    """What a person should know where a config starts from fresh weights and its recipe does not; empty: nothing.

    Training from scratch is a choice, so it is no error.
    """
    if config.start_from or config.model.pretrained:
        return ""
    entry, lines = RECIPES.get(config.recipe), []
    if entry and entry.option:
        lines.append(f"this run starts from fresh weights; the paper's from {entry.start}")
    if isinstance(config.model, CRNConfig) and config.model.backbone_norm != "train":
        lines.append(
            f"model.backbone_norm {config.model.backbone_norm} never learns the statistics of fresh weights: without"
            " others use --model.backbone-norm train"
        )
    return "; ".join(lines)


def nearest(name: str) -> list[str]:
    """Up to three names like this one; the first of all names where none is."""
    known = [*RECIPES, *ENSEMBLES]
    return difflib.get_close_matches(name, known, n=3) or sorted(known)[:3]


def default_views(config: TrainConfig) -> int:
    """Views of a test video: 4 clips for CRN, 20 for MRST-Net (both papers)."""
    return 4 if config.model.kind == "crn" else 20
