"""Output of ``python -m jobs.train --list``: a table of recipes, or the details of one."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from jobs.recipes.registry import ENSEMBLES, RECIPES, Ensemble, PrintedNumber, Recipe, nearest
from pipeline.common.cli import PrintableConsole
from pipeline.config.base import as_dict
from pipeline.config.data import ClipConfig
from pipeline.config.model import CRNConfig, ModelConfig
from pipeline.config.train import TrainConfig
from pipeline.errors import UserError

_BACKBONES = {"bninception": "BN-Inception", "inceptionv3": "Inception v3"}
_PIPE_WIDTH = 1000  # columns; the longest row has about 200
_RIBS = {"rib": "RIB", "srib": "sRIB", "none": "no RIB"}


def show_recipes(console: Console, wanted: str = "") -> None:
    """Print the details of the recipe named ``wanted``, or a table of all recipes whose names contain it.

    In a pipe the table is as wide as necessary, with one line per recipe.

    Raises:
        UserError: no name contains ``wanted``.
    """
    if wanted in RECIPES:
        _show_recipe(console, RECIPES[wanted])
        return
    if wanted in ENSEMBLES:
        _show_ensemble(console, ENSEMBLES[wanted])
        return
    entries = [entry for entry in (*RECIPES.values(), *ENSEMBLES.values()) if wanted in entry.name]
    if not entries:
        raise UserError(
            f"no recipe's name contains {wanted!r}: did you mean {', '.join(nearest(wanted))}? `python -m jobs.train"
            " --list` shows all"
        )
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("recipe", no_wrap=True)
    for title in ("model", "data set", "paper"):
        table.add_column(title)
    for entry in sorted(entries, key=lambda entry: (bool(entry.row), entry.name)):
        model = (
            describe_model(entry().model)
            if isinstance(entry, Recipe)
            else "mean of " + ", ".join(dict.fromkeys(name for name, _ in entry.members))
        )
        table.add_row(entry.name, model, entry.data, describe_printed(entry.printed))
    print_wide(console, table)
    console.print(
        f"{len(entries)} recipes (mean of: averaged probabilities of several runs); --list RECIPE shows the details of"
        " one, --list PART all names that contain PART",
        markup=False,
        soft_wrap=True,
    )


def describe_model(model: ModelConfig) -> str:
    """A model in a few words, such as ``CRN RIB, BN-Inception, rgb+flow, strategy c``."""
    inputs = "+".join(model.modalities)
    if isinstance(model, CRNConfig):
        fusion = getattr(model, "fusion", "none")
        own = "" if model.rib == "none" else f" {_RIBS[model.rib]}"  # the paper's N-CRN has none
        kind = (
            f"{fusion} fusion"
            if fusion != "none"
            else {"other": f"CRN {_RIBS[model.rib]}", "self": f"N-CRN{own}", "off": "uncoupled"}[model.partner]
        )
        narrow = "" if model.width == 1 else f" x{model.width:g}"
        return f"{kind}, {_BACKBONES[model.backbone]}{narrow}, {inputs}, strategy {model.strategy}"
    unit = (
        f"MRST-{model.unit}"
        if model.unit in ("P", "S", "T")
        else {"STF": "STD with STF", "2D": "2D twin of MRST-Net"}.get(model.unit, model.unit)
    )
    return (
        f"{unit}, {'C3D layout' if getattr(model, 'layout', '') == 'c3d' else f'{sum(model.blocks)} units'}, {inputs}"
    )


def describe_printed(printed: tuple[PrintedNumber, ...]) -> str:
    """The printed numbers, or a dash if there are none."""
    return ", ".join(map(str, printed)) or "-"


def differences(config: TrainConfig) -> list[tuple[str, Any, Any]]:
    """(field, value, default) of all fields that differ from the default TrainConfig with this kind of model."""
    model = type(config.model)()
    plain = as_dict(TrainConfig(model=model, clip=ClipConfig(num_frames=model.num_steps)))
    found = []
    for section, fields in as_dict(config).items():
        if isinstance(fields, dict):
            found += [
                (f"{section}.{name}", value, plain[section][name])
                for name, value in fields.items()
                if value != plain[section][name]
            ]
    return found


def _show_recipe(console: Console, entry: Recipe) -> None:
    config = entry()
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_row(entry.name, entry.summary)
    table.add_row("model", describe_model(config.model))
    table.add_row("data set", entry.data)
    if entry.row:
        table.add_row("paper", f"{entry.row}: {describe_printed(entry.printed)}")
        table.add_row("starts from", entry.start)
    for note in entry.notes:
        table.add_row("note", note)
    for field, value, default in differences(config):
        table.add_row(f"--{field.replace('_', '-')}", f"{_plain(value)}  (default {_plain(default)})")
    if entry.family is not None:
        table.add_row("source", entry.family.source)
        for kind, lines in (("paper states", entry.family.stated), ("our choice", entry.family.choices)):
            for line in lines:
                table.add_row(kind, line)
        for whose, flags, reason in entry.family.options:
            table.add_row(f"as {whose}", f"{flags}  ({reason})")
    print_wide(console, table)


def _show_ensemble(console: Console, entry: Ensemble) -> None:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_row(entry.name, entry.summary)
    table.add_row("data set", entry.data)
    table.add_row("paper", f"{entry.row}: {describe_printed(entry.printed)}")
    for name, branch in entry.members:
        table.add_row("averages", f"{name}, {'every branch' if branch == 'all' else 'branch ' + branch}")
    for note in entry.notes:
        table.add_row("note", note)
    print_wide(console, table)


def print_wide(console: Console, table: Table) -> None:
    """Print a table: wrapped to the window on a terminal, one line per row of any length in a pipe."""
    target = (
        console if console.is_terminal else PrintableConsole(file=console.file, width=_PIPE_WIDTH, color_system=None)
    )
    target.print(table, soft_wrap=False)


def _plain(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else ("''" if value == "" else str(value))
