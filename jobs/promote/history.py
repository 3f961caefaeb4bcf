"""The way back of an alias, and who held it."""

from __future__ import annotations

from rich.table import Table

from jobs.cards.describe import describe_registered
from jobs.cards.version_card import when
from jobs.recipes.listing import print_wide
from pipeline.common.cli import console
from pipeline.tracking.aliases import alias_history, move_alias, previous_holder
from pipeline.tracking.registry import aliased_version
from pipeline.tracking.runs import check_server


def rollback(name: str, alias: str) -> int:
    """Give an alias back to the version that had it before; returns the exit code.

    Raises:
        UserError: there is no such model or alias, or no earlier holder.
    """
    check_server()
    earlier, now = previous_holder(name, alias), aliased_version(name, alias)
    assert now is not None  # previous_holder refuses
    move_alias(earlier, alias, "rolled back", f"from version {now.version}")
    describe_registered(name)
    console.print(f"rolled back: {name}@{alias} is version {earlier.version} again, not {now.version}", markup=False)
    return 0


def print_history(name: str, alias: str) -> int:
    """Print the moves of an alias, latest first; returns the exit code. Raises UserError without such a model."""
    check_server()
    moves = alias_history(name, alias)
    if not moves:
        console.print(f"no version has held {name}@{alias}", markup=False)
        return 0
    table = Table("version", "when", "how", "by", "why", title=f"{name}@{alias}, latest first")
    for move in reversed(moves):
        table.add_row(move.version, when(move.at_ms), move.how, move.by, move.why)
    print_wide(console, table)
    return 0
