"""What a recipe is, and the registry of recipes by name."""

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
    """One number printed in a paper: top-1 in percent unless ``unit`` says otherwise."""

    what: str
    """Net or quantity: "S-Net", "T-Net", "S+T" (mean of the two branches), "top-1", "size"."""
    value: float
    unit: str = "%"
    mean_with: str = ""
    """Recipe of another run: the number is the mean of both runs' scores, and stands with that recipe too."""

    def __str__(self) -> str:
        if self.unit != "%":
            return f"{self.what} {self.value:g} {self.unit}"
        return (  # as printed: 59.0, 27.32
            f"{self.what} {self.value:.{1 if round(self.value, 1) == self.value else 2}f}%"
        )


@dataclasses.dataclass(frozen=True)
class Family:
    """What a group of recipes has in common: the paper, what it states, and our choices, with reasons, for what it
    leaves open.
    """

    source: str
    stated: tuple[str, ...]
    choices: tuple[str, ...]
    options: tuple[tuple[str, str, str], ...] = ()
    """Habits of others that a run may follow instead: whose, the flags, the reason."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A named training: calling it returns its TrainConfig.

    ``__doc__`` of an instance is its summary.
    """

    name: str
    summary: str
    build: Build
    data: str = "any"
    """Data set and split(s) that it is meant for; the user gives the URI."""
    row: str = ""
    """Table and row of the paper; empty if it is in none."""
    printed: tuple[PrintedNumber, ...] = ()
    family: Family | None = None
    start: str = "random weights"
    """Initial weights in the paper, and the option that names them."""
    option: Option = ""
    """The field that names them; empty: the recipe starts from random weights."""
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "__doc__", self.summary)

    def __call__(self) -> TrainConfig:
        """The complete config, including the recipe's name."""
        return dataclasses.replace(self.build(), recipe=self.name)


@dataclasses.dataclass(frozen=True)
class Ensemble:
    """A row of a paper that is not a training but the mean class probabilities of several trainings."""

    name: str
    summary: str
    data: str
    row: str
    printed: tuple[PrintedNumber, ...]
    members: tuple[tuple[str, str], ...]
    """(recipe, branch) of every network whose probabilities are averaged; branch: rgb, flow, diff or all."""
    notes: tuple[str, ...] = ()
    mean_of: tuple[frozenset[str], ...] = ()
    """Recipes of each of several ensembles: the printed number is the mean of their scores. Empty: it is that of one
    ensemble of all members.
    """


RECIPES: dict[str, Recipe] = {}
ENSEMBLES: dict[str, Ensemble] = {}


def register(entry: Recipe) -> Recipe:
    """Add a recipe. Raises ValueError if the name is taken, which is a bug in this package."""
    if entry.name in RECIPES:
        raise ValueError(f"recipe {entry.name} is registered twice")
    RECIPES[entry.name] = entry
    return entry


def register_ensemble(entry: Ensemble) -> None:
    """Add an ensemble. Raises ValueError if the name is taken or one of its recipes is not registered."""
    missing = [name for name, _ in entry.members if name not in RECIPES]
    if missing or entry.name in ENSEMBLES or entry.name in RECIPES:
        raise ValueError(f"ensemble {entry.name} is registered twice, or contains unknown recipes: {missing}")
    ENSEMBLES[entry.name] = entry


@overload
def recipe(function: Build) -> Recipe: ...
@overload
def recipe(*, data: str, family: Family | None = None, notes: tuple[str, ...] = ()) -> Callable[[Build], Recipe]: ...
def recipe(
    function: Build | None = None, *, data: str = "any", family: Family | None = None, notes: tuple[str, ...] = ()
) -> Recipe | Callable[[Build], Recipe]:
    """Register a function that returns a TrainConfig, under its own name; the first line of its docstring becomes the
    summary.
    """

    def wrap(build: Build) -> Recipe:
        summary = (build.__doc__ or "").strip().splitlines()[0]
        return register(Recipe(build.__name__, summary, build, data, family=family, notes=notes))

    return wrap if function is None else wrap(function)


def find_recipe(name: str) -> TrainConfig:
    """The config of the recipe of that name.

    Raises:
        UserError: the name is unknown (the closest names are given), or that of an ensemble (its recipes are given).
    """
    if name in RECIPES:
        return RECIPES[name]()
    if name in ENSEMBLES:
        raise UserError(
            f"{name} is not a training but the mean of several: train"
            f" {', '.join(member for member, _ in ENSEMBLES[name].members)}, then `python -m jobs.ensemble RUN RUN"
            f" --recipe {name}`"
        )
    raise UserError(
        f"unknown recipe {name!r}: did you mean {', '.join(nearest(name))}? `python -m jobs.train --list` shows all"
    )


def missing_start(config: TrainConfig) -> str:
    """A note for the user if a config starts from random weights though its recipe does not; empty if there is none.

    It is not an error, because training from scratch is a valid choice.
    """
    if config.start_from or config.model.pretrained:
        return ""
    entry, lines = RECIPES.get(config.recipe), []
    if entry and entry.option:
        lines.append(f"this run starts from random weights; the paper's from {entry.start}")
    if isinstance(config.model, CRNConfig) and config.model.backbone_norm != "train":
        lines.append(
            f"model.backbone_norm {config.model.backbone_norm} keeps the initial statistics of batch normalisation:"
            " with random weights use --model.backbone-norm train"
        )
    return "; ".join(lines)


def short_chain(config: TrainConfig, twin: bool) -> str:
    """A note for the user if a fine-tuning starts from the 2D twin, past the training between; empty if it does not.

    Args:
        twin: whether ``start_from`` is a run of the twin.
    """
    entry = RECIPES.get(config.recipe)
    if not twin or entry is None or entry.option != "start_from" or "twin" in entry.start:
        return ""
    meant = entry.start.partition(":")[0]
    return (
        f"this run starts from a 2D twin, the paper's from {meant}: temporal convolutions, gates and LSTM are random,"
        f" and hardly learn at {config.optim.lr:g}"
    )


def nearest(name: str) -> list[str]:
    """Up to three similar names; the first names of all if none is similar."""
    known = [*RECIPES, *ENSEMBLES]
    return difflib.get_close_matches(name, known, n=3) or sorted(known)[:3]


def default_views(config: TrainConfig) -> int:
    """Views of a test video: 4 clips for CRN, 20 for MRST-Net (both papers), 1 for its twin for still images."""
    if isinstance(config.model, CRNConfig):
        return 4
    return 1 if config.model.unit == "2D" and config.model.num_steps == 1 else 20
