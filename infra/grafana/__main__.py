"""Write the board again: python -m infra.grafana

``training.json`` is what this makes, for Grafana 10.1 and later: import it (Dashboards, New, Import) where Prometheus
scrapes the cluster's nodes. The names of the metrics are those of ``jobs.train.metrics`` and of Ray itself.
"""

from __future__ import annotations

import itertools
from pathlib import Path

from grafana_foundation_sdk.builders import common, dashboard, prometheus, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import LegendDisplayMode, LegendPlacement, SortOrder, TooltipDisplayMode
from grafana_foundation_sdk.models.dashboard import DataSourceRef, VariableRefresh

FILE = Path(__file__).with_name("training.json")
_SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
_RUN, _RANK = "ray_reciprocal_train", "rank {{rank}} of {{run}}"
_BELOW = LegendPlacement.BOTTOM
_HEIGHT, _WIDTH = 8, 12  # of a panel; a board is 24 wide


def _of_ranks(name: str) -> str:
    """A gauge of each rank; a rank that started again has another series, which this joins to the first."""
    return f'max by (run, rank) ({_RUN}_{name}{{run=~"$run"}})'


def _rate_of_ranks(name: str) -> str:
    return f'sum by (run, rank) (rate({_RUN}_{name}_total{{run=~"$run"}}[$__rate_interval]))'


_PANELS: dict[str, list[tuple[str, str, str, str]]] = {  # row -> (title, query, legend, unit)
    "Runs": [
        ("Steps", f'max by (run) ({_RUN}_step{{run=~"$run"}})', "{{run}}", "short"),
        ("Clips a second", f'sum by (run) ({_RUN}_clips_per_s{{run=~"$run"}})', "{{run}}", "short"),
    ],
    "Ranks": [
        ("Own work (the rank with most is the slowest)", _of_ranks("busy_share"), _RANK, "percentunit"),
        ("Exchange of gradients, and waiting for slower ranks", _of_ranks("exchange_share"), _RANK, "percentunit"),
        ("Waiting for data", _of_ranks("wait_share"), _RANK, "percentunit"),
        ("Computing", _of_ranks("compute_share"), _RANK, "percentunit"),
        ("Copying to the device", _of_ranks("copy_share"), _RANK, "percentunit"),
        ("Standing still for checkpoints", _rate_of_ranks("checkpoint_seconds"), _RANK, "percentunit"),
        ("Seconds a step", _of_ranks("step_seconds"), _RANK, "s"),
        ("MFU", _of_ranks("mfu"), _RANK, "percentunit"),
        ("GPU memory, peak", _of_ranks("gpu_memory_bytes"), _RANK, "bytes"),
    ],
    "Data": [
        ("Bytes read", _rate_of_ranks("loader_bytes"), _RANK, "Bps"),
        ("GETs", _rate_of_ranks("loader_requests"), _RANK, "reqps"),
        ("Requests repeated", _rate_of_ranks("loader_retries"), _RANK, "reqps"),
        ("Samples from the cache", _rate_of_ranks("loader_cache_hits"), _RANK, "cps"),
        ("Damaged samples", f'sum by (run) ({_RUN}_loader_damaged_total{{run=~"$run"}})', "{{run}}", "short"),
    ],
    "Nodes": [
        ("CPU", "max by (ip) (ray_node_cpu_utilization)", "{{ip}}", "percent"),
        ("Memory in use", "max by (ip) (ray_node_mem_used)", "{{ip}}", "bytes"),
        ("GPU", "max by (ip, GpuIndex) (ray_node_gpus_utilization)", "{{ip}} GPU {{GpuIndex}}", "percent"),
        ("Received from the network", "max by (ip) (ray_node_network_receive_speed)", "{{ip}}", "Bps"),
    ],
}


def board() -> str:
    """The board as JSON."""
    builder = (
        dashboard.Dashboard("Reciprocal: training")
        .uid("reciprocal-training")
        .tags(["reciprocal"])
        .refresh("30s")
        .time("now-3h", "now")
        .with_variable(dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
        .with_variable(
            dashboard.QueryVariable("run")
            .label("Run")
            .datasource(_SOURCE)
            .query(f"label_values({_RUN}_step, run)")
            .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
            .multi(True)
            .include_all(True)
        )
    )
    number = itertools.count(1)
    for title, panels in _PANELS.items():
        builder = builder.with_row(dashboard.Row(title).id(next(number)))
        for panel in panels:
            builder = builder.with_panel(_panel(*panel).id(next(number)))
    return JSONEncoder(sort_keys=True, indent=1).encode(builder.build()) + "\n"


def _panel(title: str, query: str, legend: str, unit: str) -> timeseries.Panel:
    return (
        timeseries.Panel()
        .title(title)
        .datasource(_SOURCE)
        .unit(unit)
        .min(0)
        .height(_HEIGHT)
        .span(_WIDTH)
        .fill_opacity(5)
        .legend(common.VizLegendOptions().show_legend(True).display_mode(LegendDisplayMode.LIST).placement(_BELOW))
        .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING))
        .with_target(prometheus.Dataquery().datasource(_SOURCE).expr(query).legend_format(legend).ref_id("A"))
    )


if __name__ == "__main__":
    FILE.write_text(board())
