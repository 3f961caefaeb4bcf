"""Every Triton kernel compiles for the GPUs that matter, without one; none spills, and none takes more registers."""

from __future__ import annotations

import importlib.util
import json
import os
import re
from typing import Any

import pytest

if importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is not installed here", allow_module_level=True)
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("TRITON_INTERPRET=1: nothing is compiled", allow_module_level=True)

from preprocessing.flow.torch import level
from tests.support.triton_kernels import CAPABILITIES, TABLE, Case, cases, compiled, usage

pytestmark = pytest.mark.slow
CASES = cases()
FLOW = [case for case in CASES if not case.maps]
STORED: dict[str, Any] = json.loads(TABLE.read_text())
_MARGIN = 8  # registers by which another version of Triton may differ: as they are handed out, in eights


@pytest.fixture(autouse=True, scope="module")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.mktemp("triton")))
        yield
        compiled.cache_clear()


def test_the_table_has_every_kernel() -> None:
    assert {case.name for case in CASES} == set(STORED["registers"])
    assert {case.function for case in FLOW} == {
        f"{name}_kernel" for name in ("iterate", "settle", "median", "linearise", "gradient", "resize", "move", "rest")
    }


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_none_spills_and_none_takes_more_registers_than_it_did(case: Case) -> None:
    for capability in CAPABILITIES:
        found = usage(case, capability)
        assert found.spilled == 0, capability
        assert 0 < found.registers <= STORED["registers"][case.name][str(capability)] + _MARGIN, capability


@pytest.mark.parametrize("case", FLOW, ids=lambda case: case.name)
def test_sums_of_flow_are_rounded_as_written_and_stay_in_one_layout(case: Case) -> None:
    """No multiply and add is fused but where the kernel says so, else flow would differ from the oracle's."""
    kernel = compiled(case, 90)
    ptx = kernel.asm["ptx"]
    # A mask or an index may change its layout (newer Tritons do so); a field that did would travel through shared
    # memory.
    assert not re.findall(r"convert_layout .*: tensor<[\dx]*f32", kernel.asm["ttgir"])
    pixels_a_thread = level.TILE_H * level.TILE_W // (32 * level.WARPS)
    iterates = case.function == "iterate_kernel"
    # three primal steps of 6, two dual steps of 4, and the squared change
    assert ptx.count("fma.rn.f32") == (27 * pixels_a_thread if iterates else 0)
    if iterates:  # whole pixels at a time: 16 bytes of dual and data, 8 of flow
        assert "ld.global.v4" in ptx
        assert "st.global.v4" in ptx


def test_bfloat16_products_run_on_tensor_cores() -> None:
    (bf16, fp32) = (case for case in CASES if case.function == "_mix_relu_sum")
    assert (bf16.maps, fp32.maps) == ("bf16", "fp32")
    for capability in CAPABILITIES:
        assert "mma" in compiled(bf16, capability).asm["ptx"]
        assert "mma" not in compiled(fp32, capability).asm["ptx"]


def test_registers_that_are_too_few_are_seen_to_spill() -> None:
    (iterate,) = (case for case in FLOW if case.function == "iterate_kernel")
    assert usage(iterate, 90, maxnreg=16).spilled > 0
