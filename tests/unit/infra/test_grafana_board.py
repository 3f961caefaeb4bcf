"""The Grafana board: what it shows exists, and it has the form that Grafana publishes for boards."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard
from ray.dashboard.modules.reporter.reporter_agent import METRICS_GAUGES

from infra.grafana.__main__ import FILE, board
from jobs.train.metrics import COUNTERS, GAUGES, exported_names

WORDS = {"max", "sum", "by", "rate", "label_values", "run", "rank", "ip", "GpuIndex"}


def stored() -> dict[str, Any]:
    return json.loads(FILE.read_text())


def panels() -> list[dict[str, Any]]:
    return [panel for panel in stored()["panels"] if panel["type"] != "row"]


def metrics_of(query: str) -> set[str]:
    """Names in a query that are no function, label or variable."""
    bare = re.sub(r'"[^"]*"|\[[^\]]*\]', "", query)
    return set(re.findall(r"[A-Za-z_][A-Za-z0-9_]*", bare)) - WORDS


def test_every_metric_of_the_board_is_exported_by_a_rank_or_by_ray() -> None:
    queries = [target["expr"] for panel in panels() for target in panel["targets"]]
    queries += [v["query"] for v in stored()["templating"]["list"] if v["type"] == "query"]
    shown = set().union(*map(metrics_of, queries))
    known = exported_names() | {f"ray_{name}" for name in METRICS_GAUGES}
    assert shown <= known, sorted(shown - known)
    assert len(queries) > 15


def test_every_metric_of_a_rank_is_on_the_board() -> None:
    text = FILE.read_text()
    assert [name for name in exported_names() if not re.search(rf"\b{name}\b", text)] == []


def test_the_board_has_the_form_that_grafana_publishes() -> None:
    """Grafana's own types read it and write it again without losing or adding anything."""
    register_default_plugins()
    again = JSONEncoder().encode(Dashboard.from_json(stored()))
    assert json.loads(again) == stored()


def test_a_field_that_grafana_does_not_know_would_be_found() -> None:
    register_default_plugins()
    changed = stored()
    changed["panels"][1]["unitt"] = "s"
    assert json.loads(JSONEncoder().encode(Dashboard.from_json(changed))) != changed


def test_panels_have_ids_of_their_own_and_do_not_overlap() -> None:
    all_panels = stored()["panels"]
    assert len({panel["id"] for panel in all_panels}) == len(all_panels)
    taken: set[tuple[int, int]] = set()
    for panel in all_panels:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert max(x for x, _ in cells) < 24
        assert not cells & taken
        taken |= cells


def test_the_stored_board_is_the_one_that_the_code_makes() -> None:
    assert board() == FILE.read_text(), "run python -m infra.grafana"


@pytest.mark.parametrize("name", [*GAUGES, *COUNTERS])
def test_what_is_exported_is_observed(name: str) -> None:
    """A meter's own numbers have every exported name."""
    import torch

    from pipeline.data.fetch.read import FetchMetrics
    from pipeline.training.meter import Meter

    class Loader:
        def metrics(self) -> dict[str, float]:
            return {**vars(FetchMetrics()), "damaged": 0}

    seen: dict[str, float] = {}
    meter = Meter(observe=seen.update)
    meter.begin(torch.nn.Linear(1, 1), Loader(), torch.device("cpu"), 1, 0)
    meter.step_ended()
    meter.curve()
    assert name in seen
