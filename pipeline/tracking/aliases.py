"""Aliases of registered models, and who held them: every move is kept with its reason.

The history of an alias is a tag ``mlflow.reciprocal.history.ALIAS`` of the registered model: a JSON list, oldest first.
MLflow's pages leave out tags that begin with ``mlflow.``; the model's description shows it as a table. Whoever may
write to the registry may change it; it decides nothing but which version ``previous_holder`` names.
"""

from __future__ import annotations

import dataclasses
import getpass
import json
import logging
from collections.abc import Sequence
from typing import Literal

from mlflow.exceptions import MlflowException

from pipeline.common.printable import printable
from pipeline.common.strict_json import JsonError, read_json
from pipeline.common.typed import Count
from pipeline.errors import UserError
from pipeline.tracking.entries import now_ms
from pipeline.tracking.registry import Version, aliased_version, version_of
from pipeline.tracking.runs import address, client

log = logging.getLogger(__name__)
How = Literal["promoted", "forced", "rolled back", "moved elsewhere"]
_TAG = "mlflow.reciprocal.history."
_MOST_CHARACTERS = 5000  # of a tag, on servers older than MLflow's present limit of 100,000
_MOST_WHY = 200


@dataclasses.dataclass(frozen=True, kw_only=True)
class Move:
    """An alias was given to a version."""

    version: str
    at_ms: Count
    """Milliseconds since 1970."""
    by: str
    """User of the machine that moved it; empty where it was not moved by this code."""
    how: How
    why: str


def alias_history(name: str, alias: str) -> tuple[Move, ...]:
    """Moves of an alias, oldest first. An alias that is not where the last move put it was moved by other means since,
    which is the last entry then; without a holder, and without moves, there are none.

    Raises:
        UserError: there is no such model.
    """
    moves = _stored(name, alias)
    holder = aliased_version(name, alias)
    if holder is not None and (not moves or moves[-1].version != holder.version):
        moves = (*moves, Move(version=holder.version, at_ms=0, by="", how="moved elsewhere", why=""))
    return moves


def move_alias(version: Version, alias: str, how: How, why: str) -> None:
    """Give an alias to a version, and add that to its history."""
    moves = alias_history(version.name, alias)
    client().set_registered_model_alias(version.name, alias, version.version)
    move = Move(version=version.version, at_ms=now_ms(), by=_user(), how=how, why=why[:_MOST_WHY])
    client().set_registered_model_tag(version.name, _TAG + alias, _as_tag((*moves, move)))


def previous_holder(name: str, alias: str) -> Version:
    """The version that had an alias before the one that has it now. A version that was rolled back counts no more:
    rolling back twice goes back by two.

    Raises:
        UserError: no such model or alias, or no earlier holder is known.
    """
    moves = alias_history(name, alias)
    if aliased_version(name, alias) is None:
        raise UserError(f"{name} has no version with the alias {alias}{_aliases(name)}: nothing to roll back")
    holders: list[str] = []
    for move in moves:
        while move.how == "rolled back" and holders and holders[-1] != move.version:
            holders.pop()
        if not holders or holders[-1] != move.version:
            holders.append(move.version)
    gone = []
    for number in reversed(holders[:-1]):
        if (found := version_of(name, number)) is not None:
            if gone:
                log.warning("version %s of %s is no longer registered", ", ".join(gone), name)
            return found
        gone.append(number)
    told = f" ({', '.join(gone)} had it and is no longer registered)" if gone else ""
    raise UserError(
        f"no version held {name}@{alias} before version {moves[-1].version}{told}: nothing to roll back to; give it to"
        " another one with `python -m jobs.promote RUN --name NAME --force`"
    )


def drop_alias(version: Version, alias: str) -> None:
    """Take an alias away where this version has it; its history stays."""
    holder = aliased_version(version.name, alias)
    if holder is not None and holder.version == version.version:
        client().delete_registered_model_alias(version.name, alias)


def _aliases(name: str) -> str:
    found = client().get_registered_model(name).aliases
    return f" (it has {', '.join(sorted(found))})" if found else ""


def _stored(name: str, alias: str) -> tuple[Move, ...]:
    try:
        tags = client().get_registered_model(name).tags
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise UserError(f"{address()} has no registered model {name!r}") from error
    try:
        return read_json(tuple[Move, ...], tags.get(_TAG + alias, "[]"), f"the tag {_TAG}{alias} of {name}")
    except JsonError as error:
        log.warning("the history of %s@%s cannot be read and begins anew: %s", name, alias, error)
        return ()


def _as_tag(moves: Sequence[Move]) -> str:
    """The latest moves, as many as a tag holds."""
    while len(text := json.dumps([dataclasses.asdict(move) for move in moves])) > _MOST_CHARACTERS:
        moves = moves[1:]
    return text


def _user() -> str:
    try:
        return printable(getpass.getuser())
    except (OSError, KeyError):  # a container's user without a name
        return ""
