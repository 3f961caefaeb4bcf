"""Which nets an ensemble averages: from command-line arguments to evaluated runs and their branches."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Sequence

from jobs.evaluate.again import evaluate_command
from jobs.recipes import ENSEMBLES, RECIPES, Ensemble, default_views, find_recipe
from pipeline.config.model import CHANNELS
from pipeline.config.train import TrainConfig
from pipeline.errors import ConfigError, NotFoundError, UserError
from pipeline.evaluation.ensemble import Net
from pipeline.evaluation.predictions import Predictions, read_predictions
from pipeline.evaluation.report import (
    EnsembleInput,
    EvalReport,
    evaluated_split,
    protocol_name,
    read_report,
    report_path,
)
from pipeline.runs.folder import open_run, read_result, read_run
from pipeline.storage import Storage

BRANCHES = ("all", *CHANNELS, "fused")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Protocol:
    """What was asked of all runs; an empty ``split`` is the one that was evaluated (test, else val), ``num_views`` 0
    the paper's number.
    """

    split: str
    num_views: int
    num_crops: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluatedRun:
    """A finished run, its report under the protocol, and the branches that are wanted of it."""

    name: str  # as the user gave it
    storage: Storage
    config: TrainConfig
    report: EvalReport
    branches: tuple[str, ...]
    again: str  # the command that evaluates it again

    def predictions(self) -> Predictions:
        """What its evaluation stored. Raises UserError where it is gone or is not the report's."""
        try:
            return read_predictions(
                self.storage.read(report_path(self.report.split, self.report.protocol, "npz")), self.report.predictions
            )
        except (UserError, NotFoundError) as error:
            raise ConfigError(
                "runs", self.name, f"its predictions cannot be used ({error}): run `{self.again}`"
            ) from error


def parse_member(text: str) -> tuple[str, str]:
    """RUN or RUN:BRANCH as (run, branch); an empty branch where none is given.

    Raises:
        ConfigError: what stands behind the colon is no branch.
    """
    run, colon, branch = text.rpartition(":")
    if not colon or "/" in branch:  # a URI's own colon
        return text, ""
    if branch not in BRANCHES or not run:
        raise ConfigError("runs", text, f"give RUN or RUN:BRANCH with one of {', '.join(BRANCHES)}")
    return run, branch


def open_member(text: str, protocol: Protocol, wanted: Ensemble | None) -> EvaluatedRun:
    """The run that a word of the command line names, and which of its branches.

    Args:
        wanted: the row of a paper whose recipes and branches the runs must have.

    Raises:
        UserError: no such run, not finished, not evaluated under the protocol, no such branch, or not of the row.
    """
    name, branch = parse_member(text)
    run = open_run(name)
    config, result = read_run(run).train_config(), read_result(run)
    views_crops = protocol_name(protocol.num_views or default_views(config), protocol.num_crops)
    split = protocol.split or evaluated_split(run, views_crops)
    first = evaluate_command(name, split, protocol.num_views, protocol.num_crops)
    again = evaluate_command(name, split, protocol.num_views, protocol.num_crops, again=True)
    path = report_path(split, views_crops)
    try:
        report = read_report(run, split, views_crops, again)
    except NotFoundError as error:
        raise ConfigError("runs", name, f"it has no {path}: run `{first}`") from error
    if report.checkpoint != result["checkpoint"]:
        raise ConfigError(
            "runs",
            name,
            f"its {path} is of {report.checkpoint}, but the run ends with {result['checkpoint']}: run `{first}`",
        )
    if not report.predictions:
        raise ConfigError("runs", name, f"its {path} was written by code that kept no predictions: run `{again}`")
    if wanted is not None:
        branch = _branch_of_row(name, config, branch, wanted)
    known = report.branches
    if branch not in ("", "all", *known):
        raise ConfigError(
            "runs", text, f"the branches of {config.recipe or name} are {', '.join(known)}: use one of them, or all"
        )
    return EvaluatedRun(
        name=name,
        storage=run,
        config=config,
        report=report,
        branches=known if branch in ("", "all") else (branch,),
        again=again,
    )


def find_ensemble(name: str) -> Ensemble:
    """The row of that name. Raises ConfigError with the nearest names."""
    if name not in ENSEMBLES:
        near = difflib.get_close_matches(name, ENSEMBLES, n=3) or sorted(ENSEMBLES)[:3]
        word = "a training recipe, not an ensemble" if name in RECIPES else "unknown"
        raise ConfigError(
            "recipe", name, f"{word}: did you mean {', '.join(near)}? `python -m jobs.train --list ens` shows all"
        )
    return ENSEMBLES[name]


def _branch_of_row(name: str, config: TrainConfig, branch: str, wanted: Ensemble) -> str:
    own = [(recipe, of) for recipe, of in wanted.members if same_training(config.recipe, recipe)]
    if not own:
        raise ConfigError(
            "runs",
            name,
            f"it is a run of {config.recipe or 'no recipe'}; {wanted.name} averages"
            f" {', '.join(dict.fromkeys(r for r, _ in wanted.members))}",
        )
    branches = [of for _, of in own]
    if branch and branch not in branches:
        raise ConfigError("runs", f"{name}:{branch}", f"{wanted.name} takes branch {', '.join(branches)} of it")
    return branch or branches[0]


def same_training(recipe: str, other: str) -> bool:
    """Whether two recipes are one training: rows of several tables share some."""
    if recipe not in RECIPES or recipe == other:
        return recipe == other
    return RECIPES[recipe].data == RECIPES[other].data and dataclasses.replace(
        find_recipe(recipe), recipe=other
    ) == find_recipe(other)


def left_out(runs: Sequence[EvaluatedRun], wanted: Ensemble) -> list[str]:
    """Members of a row that no run stands for. Raises ConfigError where two different runs stand for one."""
    missing = []
    for recipe in dict.fromkeys(recipe for recipe, _ in wanted.members):
        found = sorted({run.storage.uri for run in runs if same_training(run.config.recipe, recipe)})
        if len(found) > 1:
            raise ConfigError("runs", found, f"all are runs of {recipe}, of which {wanted.name} takes one")
        missing += [] if found else [recipe]
    return missing


def members_of(runs: Sequence[EvaluatedRun]) -> tuple[EnsembleInput, ...]:
    """Every net once, in an order that does not depend on the command line's.

    Raises:
        ConfigError: fewer than two nets, or one twice.
    """
    pairs = sorted(
        ((run, branch) for run in runs for branch in run.branches), key=lambda pair: (pair[0].storage.uri, pair[1])
    )
    words = [f"{run.name}:{branch}" for run, branch in pairs]
    if len(pairs) < 2:
        raise ConfigError("runs", words, "give two or more nets, such as RUN RUN or RUN:rgb RUN:rgb")
    nets = [(run.storage.uri, branch) for run, branch in pairs]
    if len(set(nets)) < len(nets):
        raise ConfigError(
            "runs", words, "name each net once: twice it would weigh twice (RUN alone stands for all its branches)"
        )
    # MLflow takes no other letters in names of metrics.
    names = [re.sub(r"[^\w.:-]", "_", f"{run.report.run_id}:{branch}") for run, branch in pairs]
    return tuple(
        EnsembleInput(
            name=name if names.count(name) == 1 else f"{name}.{number}",  # runs of one id in two folders
            run=run.storage.uri,
            branch=branch,
            recipe=run.config.recipe,
            checkpoint=run.report.checkpoint,
            predictions=run.report.predictions,
        )
        for number, (name, (run, branch)) in enumerate(zip(names, pairs, strict=True), 1)
    )


def load_nets(members: Sequence[EnsembleInput], runs: Sequence[EvaluatedRun]) -> list[Net]:
    """The members' stored probabilities, each run's file read once."""
    stored = {
        uri: next(run for run in runs if run.storage.uri == uri).predictions()
        for uri in dict.fromkeys(m.run for m in members)
    }
    return [Net(m.name, m.branch, stored[m.run]) for m in members]
