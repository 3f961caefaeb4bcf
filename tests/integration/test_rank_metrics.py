"""A rank's numbers as Prometheus gets them from a node of a real Ray."""

from __future__ import annotations

import subprocess
import sys

import pytest
from prometheus_client.parser import text_string_to_metric_families

from jobs.train.metrics import COUNTERS, GAUGES, exported_names

pytestmark = [pytest.mark.stack, pytest.mark.timeout(200)]

SCRIPT = """
import sys, time, urllib.request
import ray
from jobs.cluster.connect import connect
from jobs.train.metrics import COUNTERS, GAUGES, RankMetrics

connect()

@ray.remote(num_cpus=0)
class Rank:
    def observe(self, number):
        self.metrics = getattr(self, "metrics", None) or RankMetrics("run-1", 3)
        self.metrics({name: number for name in (*GAUGES, *COUNTERS)})

rank = Rank.remote()
ray.get(rank.observe.remote(2.0))
ray.get(rank.observe.remote(5.0))
node = ray.nodes()[0]
url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
for _ in range(60):
    text = urllib.request.urlopen(url, timeout=5).read().decode()
    if all(f"ray_reciprocal_train_{name}" in text for name in (*GAUGES, *COUNTERS)):
        break
    time.sleep(1)
sys.stdout.write(text)
"""


def test_prometheus_gets_every_number_of_a_rank_with_run_and_rank() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    samples = [s for family in text_string_to_metric_families(done.stdout) for s in family.samples]
    found = {s.name: s for s in samples if s.name.startswith("ray_reciprocal_train_")}
    assert set(found) == exported_names()
    assert len(found) == len(GAUGES) + len(COUNTERS)
    for sample in found.values():
        assert (sample.labels["run"], sample.labels["rank"]) == ("run-1", "3")
        assert sample.value == 5.0  # a gauge keeps the last one, a counter has 2 and then 3 more
