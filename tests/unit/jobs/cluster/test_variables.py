"""Environment variables that the guides name, or that the code reads, reach workers, or say why not."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import ray

from jobs.cluster.environment import STAYS, worker_environment
from tests.support.paths import ROOT

_NAME = re.compile(r"`((?:AWS|MLFLOW|RAY|RECIPROCAL|OMP)_[A-Z0-9_]+|TMPDIR)(?:=\w+)?`")
OF_TESTS = {"RECIPROCAL_DATA", "RECIPROCAL_EXPECT_GPU"}
OF_SERVERS = ("MLFLOW_AUTH_", "MLFLOW_BASIC_AUTH_", "MLFLOW_FLASK_")
# Values that the code accepts; for all others any text will do.
VALUES = {"RECIPROCAL_S3_DEADLINE_S": "20", "AWS_EC2_METADATA_DISABLED": "true", "RECIPROCAL_STACK": "off"}


def documented() -> set[str]:
    """Names in the guides."""
    files = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
    found = {name for file in files for name in _NAME.findall(file.read_text())} - OF_TESTS
    return {name for name in found if not name.startswith(OF_SERVERS)}


def passed_on() -> list[str]:
    return sorted(documented() - STAYS.keys() - {"RECIPROCAL_HOME"})


def read_by_code() -> set[str]:
    """Names that the packages look up in ``os.environ`` by a literal or by a constant of the module."""
    found = set()
    for package in ("pipeline", "preprocessing", "jobs"):
        for file in sorted((ROOT / package).rglob("*.py")):
            tree = ast.parse(file.read_bytes())
            constants = {
                target.id: node.value.value
                for node in ast.walk(tree)
                if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
                for target in node.targets
                if isinstance(target, ast.Name)
            }
            for node in ast.walk(tree):
                what = (
                    node.args[0]
                    if isinstance(node, ast.Call) and node.args and ast.unparse(node.func).startswith("os.environ.")
                    else node.slice
                    if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "os.environ"
                    else None
                )
                name = constants.get(what.id) if isinstance(what, ast.Name) else getattr(what, "value", None)
                if isinstance(name, str):
                    found.add(name)
    return found


def test_the_guides_name_variables_at_all() -> None:
    assert {"RECIPROCAL_S3_DEADLINE_S", "AWS_CA_BUNDLE", "TMPDIR", "MLFLOW_TRACKING_URI"} <= set(passed_on())


@pytest.mark.slow
def test_every_variable_that_the_code_reads_is_passed_on_or_stays_for_a_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = {name for name in read_by_code() if name.startswith(("AWS_", "MLFLOW_", "RAY_", "RECIPROCAL_", "OMP_"))}
    assert "RECIPROCAL_S3_DEADLINE_S" in names
    for name in names - STAYS.keys():
        monkeypatch.setenv(name, VALUES.get(name, "text"))
    assert sorted(names - STAYS.keys() - worker_environment(one_host=True).keys()) == []


_DRIVER = """
import json, os, sys
import ray
from jobs.cluster.connect import connect
connect()
names = json.loads(sys.argv[1])
@ray.remote(num_cpus=0)
def seen():
    return {name: os.environ.get(name) for name in names}
print("seen", json.dumps(ray.get(seen.remote())))
"""


@pytest.mark.slow
def test_every_documented_variable_reaches_a_worker_of_a_ray_that_was_started_without_it(tmp_path: Path) -> None:
    given = {name: VALUES.get(name, f"value-of-{name}") for name in passed_on()} | {"TMPDIR": str(tmp_path)}
    context = ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        environment = {
            **os.environ,
            **given,
            "RAY_ADDRESS": context.address_info["gcs_address"],
            "RECIPROCAL_HOME": str(tmp_path / "home"),
        }
        command = [sys.executable, "-c", _DRIVER, json.dumps([*given, "RECIPROCAL_HOME"])]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    finally:
        ray.shutdown()
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.split("seen ", 1)[1].splitlines()[0])
    assert seen == {**given, "RECIPROCAL_HOME": str(tmp_path / "home")}
