"""``builder_version``: all code that decides a shard's bytes is in, and nothing else."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from preprocessing.shard.provenance import CARRIERS, builder_version, decisive_code
from tests.support.paths import ROOT

pytestmark = pytest.mark.slow


def test_decoder_clock_list_parsers_engines_and_formats_are_in() -> None:
    modules, _ = decisive_code()
    expected = {
        "pipeline.config.preprocess",
        "pipeline.dataset.sample",
        "pipeline.dataset.shards",
        "preprocessing.annotations.csv_list",
        "preprocessing.annotations.folder",
        "preprocessing.annotations.hmdb51",
        "preprocessing.annotations.kinetics",
        "preprocessing.annotations.lists",
        "preprocessing.annotations.moments",
        "preprocessing.annotations.ucf101",
        "preprocessing.flow.numba.simd",
        "preprocessing.flow.opencv",
        "preprocessing.flow.torch.triton_kernels",
        "preprocessing.media.clock",
        "preprocessing.media.encode",
        "preprocessing.media.packets",
        "preprocessing.shard.build",
        "preprocessing.shard.clip",
        "preprocessing.shard.motion",
        "preprocessing.shard.stages",
        "preprocessing.sources.packed",
    }
    assert expected <= modules.keys()


def test_what_only_carries_bytes_or_uses_shards_is_out() -> None:
    modules, libraries = decisive_code()
    outside = ("jobs", "pipeline.models", "pipeline.data.", "preprocessing.verify", "preprocessing.report", *CARRIERS)
    assert not [name for name in modules if name.startswith(outside)]
    assert not libraries & {"ray", "mlflow", "boto3", "rich"}


def test_versions_of_the_libraries_that_decode_compute_and_encode_are_in() -> None:
    digest, *versions = builder_version().split(" ")
    assert len(digest) == 12
    for name in ("av", "numpy", "opencv", "numba", "torch"):
        assert any(version.startswith(f"{name}-") for version in versions), name


@pytest.mark.slow
def test_the_modules_found_are_those_that_python_loads() -> None:
    """Independent of the syntax trees: import builder, plan, lists and all engines, and look at sys.modules."""
    code = (
        "import sys, preprocessing.annotations, preprocessing.shard.build, preprocessing.shard.plan\n"
        "import preprocessing.flow.numba.engine, preprocessing.flow.torch.engine\n"
        "print(*(n for n in sys.modules if n.split('.')[0] in ('pipeline', 'preprocessing')))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    expected = {name for name in loaded.stdout.split() if not name.startswith(tuple(CARRIERS))}
    assert expected <= decisive_code()[0].keys()


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for name in ("pipeline", "preprocessing"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


@pytest.mark.parametrize(
    "changed",
    ["preprocessing/media/packets.py", "preprocessing/annotations/kinetics.py", "preprocessing/flow/numba/__init__.py"],
)
@pytest.mark.slow
def test_one_byte_of_the_decisive_code_changes_the_version(copy: Path, changed: str) -> None:
    before = builder_version(copy)
    assert before == builder_version()
    with (copy / changed).open("a") as file:
        file.write("\n")
    assert builder_version(copy) != before


@pytest.mark.parametrize(
    "changed", ["preprocessing/verify/shard.py", "pipeline/models/build.py", "pipeline/storage/local.py"]
)
@pytest.mark.slow
def test_other_code_does_not_change_the_version(copy: Path, changed: str) -> None:
    before = builder_version(copy)
    with (copy / changed).open("a") as file:
        file.write("\n")
    assert builder_version(copy) == before


def test_a_module_that_is_only_imported_inside_a_function_is_in(copy: Path) -> None:
    before = builder_version(copy)
    (copy / "preprocessing/media/new.py").write_text("VALUE = 1\n")
    assert builder_version(copy) == before
    with (copy / "preprocessing/media/clock.py").open("a") as file:
        file.write("\n\ndef value():\n    from preprocessing.media.new import VALUE\n\n    return VALUE\n")
    used = builder_version(copy)
    (copy / "preprocessing/media/new.py").write_text("VALUE = 2\n")
    assert len({before, used, builder_version(copy)}) == 3
