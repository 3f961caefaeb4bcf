"""``ray_cluster.yaml`` against Ray's own loader and schema, and against this checkout. Nothing here talks to AWS."""

from __future__ import annotations

import copy
import functools
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.paths import ROOT

# vCPUs and GPUs from AWS's instance type pages.
INSTANCES = {"m7i.2xlarge": (8, 0), "c7i.8xlarge": (32, 0), "g6.12xlarge": (48, 4)}


@pytest.fixture(scope="module")
def written() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "ray_cluster.yaml").read_text())


@pytest.fixture(scope="module")
def prepared(written: dict[str, Any]) -> dict[str, Any]:
    util = pytest.importorskip("ray.autoscaler._private.util")
    return util.prepare_config(copy.deepcopy(written))


def test_ray_accepts_the_file(written: dict[str, Any], prepared: dict[str, Any]) -> None:
    import jsonschema
    from ray.autoscaler._private.util import validate_config

    validate_config(prepared)
    wrong = copy.deepcopy(prepared)
    wrong["available_node_types"]["ray.worker.gpu"]["resource"] = {"GPU": 4}
    with pytest.raises(jsonschema.ValidationError):  # the oracle does look: a misspelt field is refused
        validate_config(wrong)
    assert prepared["available_node_types"].keys() == written["available_node_types"].keys()


def test_schema_of_the_written_file(written: dict[str, Any]) -> None:
    import jsonschema
    import ray.autoscaler

    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    jsonschema.validate(written, schema)


def test_resources_are_those_of_the_instances(written: dict[str, Any]) -> None:
    for name, node_type in written["available_node_types"].items():
        cpus, gpus = INSTANCES[node_type["node_config"]["InstanceType"]]
        resources = node_type["resources"]
        assert resources.get("GPU", 0) == gpus, name
        assert resources["CPU"] == (0 if name == written["head_node_type"] else cpus), name


def test_limits_are_consistent(prepared: dict[str, Any]) -> None:
    types = dict(prepared["available_node_types"])
    head = types.pop(prepared["head_node_type"])
    assert head["max_workers"] == 0
    assert set(types) == {"ray.worker.cpu", "ray.worker.gpu"}
    assert sum(node_type["max_workers"] for node_type in types.values()) == prepared["max_workers"]
    assert all(0 <= node_type["min_workers"] <= node_type["max_workers"] for node_type in types.values())
    assert prepared["idle_timeout_minutes"] > 0
    assert prepared["upscaling_speed"] > 0


def test_workers_scale_up_for_a_training_run_and_for_preprocessing(prepared: dict[str, Any]) -> None:
    """Ray's own bin packing, given what the jobs ask for, picks the node types this file means for them."""
    from ray.autoscaler._private.resource_demand_scheduler import _default_utilization_scorer, get_nodes_for

    scorer = functools.partial(_default_utilization_scorer, node_availability_summary=None)

    def wanted(demand: list[dict[str, float]]) -> dict[str, int]:
        types, head = prepared["available_node_types"], prepared["head_node_type"]
        nodes, unplaced = get_nodes_for(types, {}, head, prepared["max_workers"], demand, utilization_scorer=scorer)
        assert not unplaced
        return dict(nodes)

    assert wanted([{"GPU": 1, "CPU": 8}] * 8) == {"ray.worker.gpu": 2}
    assert wanted([{"CPU": 1}] * 96) == {"ray.worker.cpu": 3}


def test_every_path_named_exists(written: dict[str, Any]) -> None:
    for target, source in written["file_mounts"].items():
        assert (ROOT / source).is_dir()
        assert target == f"/home/{written['auth']['ssh_user']}/reciprocal"
    for name in written["rsync_filter"]:
        assert (ROOT / name).is_file()
    commands = "\n".join(written["setup_commands"])
    constraint = re.search(r"cd ~/reciprocal && .*pip install .*-c (\S+) \.", commands)
    assert constraint is not None
    assert (ROOT / constraint.group(1)).is_file()
    assert (ROOT / "pyproject.toml").is_file()


@pytest.mark.parametrize("where", ["head_start_ray_commands", "worker_start_ray_commands", "setup_commands"])
def test_commands_are_shell(written: dict[str, Any], where: str) -> None:
    for command in written[where]:
        subprocess.run(["bash", "-n", "-c", command], check=True, timeout=10, capture_output=True)


def test_environment_reaches_ray(written: dict[str, Any], tmp_path: Path) -> None:
    """The set-up command, run by a shell, writes a file that the start commands source before Ray starts."""
    writes = [command for command in written["setup_commands"] if "reciprocal.env" in command]
    assert len(writes) == 1
    environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    script = f"{writes[0]}\n. ~/reciprocal.env\nenv"
    shown = subprocess.run(
        ["bash", "-c", script], env=environment, check=True, timeout=10, capture_output=True, text=True
    ).stdout
    values = dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)
    assert values["MLFLOW_TRACKING_URI"].startswith("http")
    assert (values["RAY_TRAIN_V2_ENABLED"], values["RECIPROCAL_STACK"], values["RECIPROCAL_AUTOSCALING"]) == (
        "1",
        "off",
        "1",
    )
    assert values["PATH"] == "/home/ubuntu/venv/bin:/usr/bin:/bin"
    for where in ("head_start_ray_commands", "worker_start_ray_commands"):
        start = written[where][-1]
        assert start.index(". ~/reciprocal.env") < start.index("ulimit -n 65536") < start.index("ray start")


def test_nodes_have_a_role_and_the_file_holds_no_credentials(written: dict[str, Any]) -> None:
    text = (ROOT / "ray_cluster.yaml").read_text()
    assert not re.search(r"AKIA[0-9A-Z]{16}|aws_secret_access_key|AWS_SECRET_ACCESS_KEY", text)
    for node_type in written["available_node_types"].values():
        assert node_type["node_config"]["IamInstanceProfile"]["Name"]
