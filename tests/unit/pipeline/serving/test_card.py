"""Weights and card of a model are data from anywhere: what they may not be is refused in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from pipeline.config.train import TrainConfig
from pipeline.dataset.manifest import Manifest
from pipeline.errors import UserError
from pipeline.serving.card import CARD, MOST_BYTES, WEIGHTS, read_card
from pipeline.serving.predictor import Predictor

Packed = tuple[Path, TrainConfig, Manifest]


def with_field(card: dict[str, Any], name: str, value: Any) -> str:
    """The card's text with one dotted field set."""
    changed = json.loads(json.dumps(card))
    *sections, last = name.split(".")
    place = changed
    for section in sections:
        place = place[section]
    place[last] = value
    return json.dumps(changed)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("surprise", 1),
        ("config.surprise", 1),
        ("config.model.surprise", 1),
        ("stored.surprise", 1),
        ("config", []),
        ("stored", None),
        ("config.model", 3),
        ("config.model.modalities", ["rgb", "smell"]),
        ("config.model.hidden", "8"),
        ("config.clip.flow_std", "2"),
        ("stored.fps", "10"),
        ("config.model.kind", "other"),
        ("config.model.hidden", 10**9),
        ("config.model.num_layers", 10**6),
        ("config.clip.crop", 10**6),
        ("stored.short_side", 10**6),
        ("classes", "walk"),
        ("classes", []),
        ("classes", ["a", "b", "c", 4]),
        ("classes", ["a", "b", "c", "c"]),
        ("classes", ["a", "b", "c", "d" * 2000]),
        ("classes", ["a", "b", "c", ""]),
        ("num_views", 0),
        ("num_views", 10**9),
        ("num_views", True),
        ("num_views", 2.5),
        ("num_crops", 2),
        ("run_id", 7),
    ],
)
def test_a_card_with_another_field_type_or_range_is_refused(
    packed: Packed, tmp_path: Path, field: str, value: Any
) -> None:
    path = tmp_path / CARD
    path.write_text(with_field(json.loads((packed[0] / CARD).read_text()), field, value))
    with pytest.raises(UserError) as caught:
        read_card(path)
    text = str(caught.value)
    assert text.startswith(CARD)
    assert field.split(".")[-1] in text
    assert "\n" not in text
    assert len(text) < 1000


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '"x"',
        "[" * 100_000,
        "{}",
        '{"num_views": NaN}',
        '{"num_views": 1' + "0" * 5000 + "}",
        "\x80",
    ],
    ids=["empty", "list", "cut", "text", "deep", "no fields", "NaN", "digits", "bytes"],
)
def test_a_card_that_is_no_card_is_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / CARD
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=rf"^{CARD}") as caught:
        read_card(path)
    assert "\n" not in str(caught.value)


def test_a_card_too_large_to_be_one_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / CARD
    with path.open("wb") as file:
        file.truncate(MOST_BYTES[CARD] + 1)
    with pytest.raises(UserError, match="more than 4194304"):
        read_card(path)


def changed_weights(weights: dict[str, torch.Tensor]) -> dict[str, Callable[[], tuple[dict[str, torch.Tensor], str]]]:
    """By kind of change: other weights, and the message."""
    fc = "branches.rgb.head.fc"
    five = {
        f"branches.{m}.head.fc.{part}": (5, 8) if part == "weight" else (5,)
        for m in ("rgb", "flow")
        for part in ("weight", "bias")
    }
    return {
        "classes": lambda: (
            {**weights, **{name: torch.zeros(shape) for name, shape in five.items()}},
            "the card has 4 classes, the weights score 5",
        ),
        "modalities": lambda: (
            {name.replace("branches.flow", "branches.diff"): value for name, value in weights.items()},
            "the card's modalities are flow, rgb, those of the weights diff, rgb",
        ),
        "missing": lambda: (
            {name: value for name, value in weights.items() if name != f"{fc}.bias"},
            rf"{fc}.bias has shape \(4,\) in the card's model and none in the weights",
        ),
        "unknown": lambda: ({**weights, "more": torch.zeros(3)}, "the card's model has no tensor more"),
        "nan": lambda: (
            {**weights, f"{fc}.bias": torch.full((4,), torch.nan)},
            f"{fc}.bias contains a value that is not finite",
        ),
    }


@pytest.mark.parametrize("kind", ["classes", "modalities", "missing", "unknown", "nan"])
def test_weights_that_do_not_belong_to_the_card_are_one_line(packed: Packed, tmp_path: Path, kind: str) -> None:
    (tmp_path / CARD).write_bytes((packed[0] / CARD).read_bytes())
    other, message = changed_weights(safetensors.torch.load_file(packed[0] / WEIGHTS))[kind]()
    safetensors.torch.save_file(other, tmp_path / WEIGHTS)
    with pytest.raises(UserError, match=message) as caught:
        Predictor(tmp_path)
    assert "\n" not in str(caught.value)


def test_weights_that_are_no_safetensors_are_not_loaded(packed: Packed, tmp_path: Path) -> None:
    (tmp_path / CARD).write_bytes((packed[0] / CARD).read_bytes())
    marker = tmp_path / "it ran"
    for content in (b"", b"\xff" * 100, b"cposix\nsystem\n(S'touch " + bytes(marker) + b"'\ntR."):
        (tmp_path / WEIGHTS).write_bytes(content)
        with pytest.raises(UserError, match=rf"{WEIGHTS} is no file of safetensors"):
            Predictor(tmp_path)
    assert not marker.exists()


def test_a_card_that_asks_for_a_huge_model_takes_no_memory(packed: Packed, tmp_path: Path) -> None:
    card = json.loads((packed[0] / CARD).read_text())
    card["config"]["model"] |= {"hidden": 1 << 16, "adapted": 1 << 16, "num_layers": 64}
    (tmp_path / CARD).write_text(json.dumps(card))
    (tmp_path / WEIGHTS).write_bytes((packed[0] / WEIGHTS).read_bytes())
    with pytest.raises(UserError, match=f"{WEIGHTS} does not belong to {CARD}"):
        Predictor(tmp_path)
