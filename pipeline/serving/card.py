"""The two files of a registered model, read as data: nothing that stands in them is run, and nothing is believed.

Whoever may write to a registry decides what they hold. So types, names, ranges and sizes are checked before anything is
built, and before memory is taken for what they ask for.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import safetensors
import safetensors.torch
import torch

from pipeline.common.strict_json import as_object, checked, parse_json
from pipeline.common.typed import Range
from pipeline.config.base import require
from pipeline.config.preprocess import StoredConfig
from pipeline.config.renamed import with_new_names
from pipeline.config.train import TrainConfig
from pipeline.errors import ConfigError, UserError
from pipeline.models import ActionModel, build_model
from pipeline.models.transfer import classifier_names

CARD = "predictor.json"
WEIGHTS = "model.safetensors"
MOST_BYTES = {CARD: 4 << 20, WEIGHTS: 8 << 30}
"""Of each file; the largest network of the recipes has 0.4 GB, a card of 100,000 classes 3 MB."""

_MAX_CLASSES = 100_000
_MAX_NAME = 1000  # characters of a class's name
_MAX_INPUT = 1 << 30  # numbers that all views of a video hold together: 4 GB
# What an honest model stays far below, and what would take hours or all memory before weights are compared.
_MOST = {
    "num_views": 1000,
    "clip.num_frames": 4096,
    "clip.crop": 4096,
    "clip.resize": 8192,
    "clip.stride": 10_000,
    "clip.stack": 64,
    "model.num_layers": 64,
    "model.blocks": 256,
    "model.kernel_size": 31,
    "model.hidden": 1 << 16,
    "model.adapted": 1 << 16,
    "stored.short_side": 4096,
    "stored.fps": 1000,
    "stored.gop": 100_000,
}
_MOST_ENTRIES = 64  # of a field that lists numbers
_MOST_NUMBER = 1 << 16  # in it


@dataclasses.dataclass(frozen=True, kw_only=True)
class Card:
    """``predictor.json``: everything about a model but its weights."""

    config: TrainConfig
    classes: tuple[str, ...]
    stored: StoredConfig
    num_views: Annotated[int, Range(1)]
    num_crops: Literal[1, 3] = 1  # absent in models of older code
    manifest_digest: str = ""
    run_id: str = ""


def card_fields(state: dict[str, Any], num_views: int, num_crops: int) -> dict[str, Any]:
    """A card of a checkpoint's state, JSON-ready.

    Args:
        num_views, num_crops: of the evaluation that the predictor repeats.
    """
    names = ("config", "classes", "stored", "manifest_digest", "run_id")
    return {**{name: state[name] for name in names}, "num_views": num_views, "num_crops": num_crops}


def read_card(path: Path) -> Card:
    """Read and check ``predictor.json``.

    Raises:
        UserError: it is not JSON, or a field is unknown, missing, of another type or out of range; names the field.
    """
    if path.stat().st_size > MOST_BYTES[CARD]:
        raise UserError(f"{path.name} has {path.stat().st_size} bytes, more than {MOST_BYTES[CARD]}")
    fields = as_object(parse_json(path.read_bytes(), path.name), path.name)
    if isinstance(fields.get("config"), dict):
        fields["config"] = with_new_names(fields["config"])
    try:
        card = checked(Card, fields, path.name)
        _check_classes(card.classes)
        _check_sizes(card)
    except ConfigError as error:
        raise UserError(f"{path.name}: {error}") from error
    return card


def _check_classes(classes: tuple[str, ...]) -> None:
    require(1 <= len(classes) <= _MAX_CLASSES, "classes", len(classes), f"must be 1 to {_MAX_CLASSES} names")
    for name in classes:
        require(0 < len(name) <= _MAX_NAME, "classes", name[:80], f"a name has 1 to {_MAX_NAME} characters")
    require(len(set(classes)) == len(classes), "classes", len(classes), "names must differ")


def _check_sizes(card: Card) -> None:
    clip = card.config.clip
    for name, value in _numbers(card):
        most = _MOST.get(name, _MOST_NUMBER)
        values = value if isinstance(value, tuple) else (value,)
        require(len(values) <= _MOST_ENTRIES, name, len(values), f"must have at most {_MOST_ENTRIES} numbers")
        require(all(number <= most for number in values), name, value, f"must be at most {most}")
    numbers = card.num_views * card.num_crops * clip.num_frames * clip.crop**2 * 3 * clip.stack
    require(numbers <= _MAX_INPUT, "clip", numbers, f"the views of a video must hold at most {_MAX_INPUT} numbers")


def _numbers(card: Card) -> Iterator[tuple[str, Any]]:
    """The fields that decide sizes: those of the model, and the ones listed above."""
    yield "num_views", card.num_views
    for section, config in (("clip", card.config.clip), ("model", card.config.model), ("stored", card.stored)):
        for field in dataclasses.fields(config):
            value, name = getattr(config, field.name), f"{section}.{field.name}"
            numbers = value if isinstance(value, tuple) else (value,)
            if (section == "model" or name in _MOST) and all(isinstance(v, int | float) for v in numbers):
                yield name, value


def load_model(path: Path, card: Card) -> ActionModel:
    """The model that a card describes, with the weights of ``model.safetensors``.

    Names and shapes are compared before the model is built: no card makes a model larger than its file of weights.

    Raises:
        UserError: weights and card do not belong together, or a weight is not finite; says what differs.
    """
    config, crop = card.config.model, card.config.clip.crop
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(f"{path.name} is no file of safetensors: {error}") from error
    try:
        with torch.device("meta"):
            model = build_model(config, num_classes=len(card.classes), crop=crop)
        expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    except (RuntimeError, ValueError, ConfigError) as error:
        raise UserError(f"{CARD} describes no possible model: {str(error).splitlines()[0]}") from error
    if found != expected:
        raise UserError(f"{WEIGHTS} does not belong to {CARD}: {_difference(card, found, expected)}")
    weights = safetensors.torch.load_file(path)
    for name, tensor in weights.items():
        if not tensor.isfinite().all():
            raise UserError(f"{WEIGHTS}: {name} contains a value that is not finite")
    model = build_model(config, num_classes=len(card.classes), crop=crop)
    model.load_state_dict(weights)
    return model


def _difference(card: Card, found: dict[str, tuple[int, ...]], expected: dict[str, tuple[int, ...]]) -> str:
    ours, theirs = _branches(expected), _branches(found)
    if ours != theirs:
        return f"the card's modalities are {', '.join(sorted(ours))}, those of the weights {', '.join(sorted(theirs))}"
    different = [name for name in expected if found.get(name) != expected[name]]
    classifier = classifier_names(card.config.model, crop=card.config.clip.crop)
    if different and set(different) <= set(classifier) <= found.keys():
        return f"the card has {len(card.classes)} classes, the weights score {found[different[0]][0]}"
    if not different:
        name = min(found.keys() - expected.keys())
        return f"the card's model has no tensor {name[:200]}"
    name = different[0]
    return f"{name} has shape {expected[name]} in the card's model and {found.get(name, 'none')} in the weights"


def _branches(names: dict[str, Any]) -> set[str]:
    return {name.split(".")[1] for name in names if name.startswith("branches.")} or {"one"}
