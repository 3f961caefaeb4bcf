"""Every Triton kernel of the project, compiled for NVIDIA GPUs without one, and what each takes of a multiprocessor.

python -m tests.support.triton_kernels      # writes the table that tests/unit/test_triton_kernels.py compares with
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import functools
import importlib
import inspect
import json
import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from tests.support.paths import ROOT

TABLE = ROOT / "tests/data/triton_registers.json"
CAPABILITIES = (80, 89, 90)  # A100; L4, L40 and RTX 40; H100 and H200
MODULES = (
    "pipeline.models.mrst.triton_gate",
    "pipeline.models.mrst.triton_sum",
    "pipeline.models.triton_norm",
    "preprocessing.flow.torch.triton_filters",
    "preprocessing.flow.torch.triton_kernels",
    "preprocessing.flow.torch.triton_warps",
)
_FLOW_WORDS = {
    "i32": ("height", "width", "tiles_x", "tiles", "source_height", "source_width"),
    "fp32": ("limit", "bound", "theta", "slope", "gain"),
    "*i32": ("used", "going", "left", "right", "top", "bottom"),
}
_MODEL_WORDS = {
    "i32": ("positions", "channels", "pixels", "tiles", "blocks"),
    "fp32": ("momentum", "eps"),
    "*i8": ("mask",),
}
_MAPS = ("a", "b", "aa", "ba", "s", "t", "x", "grad", "out", "out_s", "out_t")  # in the precision of the maps


@dataclasses.dataclass(frozen=True)
class Case:
    """A kernel as it is launched."""

    module: str
    function: str
    maps: str = ""
    """Type of the maps of a network: bf16 or fp32."""

    @property
    def name(self) -> str:
        return ".".join([self.module.rpartition(".")[2], self.function, *([self.maps] if self.maps else [])])

    @property
    def kernel(self) -> Any:
        return getattr(importlib.import_module(self.module), self.function)

    def types(self) -> dict[str, str]:
        """Of every argument, as Triton writes them."""
        words = _MODEL_WORDS if self.maps else _FLOW_WORDS
        known = {word: kind for kind, of_kind in words.items() for word in of_kind}
        if self.maps:
            known |= dict.fromkeys(_MAPS, f"*{self.maps}")
        constants = self.constants()
        return {name: "constexpr" if name in constants else known.get(name, "*fp32") for name in self.kernel.arg_names}

    def constants(self) -> Mapping[str, Any]:
        if not self.maps:
            level = importlib.import_module("preprocessing.flow.torch.level")
            sizes = {"SUMS": 256, "CHANNELS": 2, "TILE_H": level.TILE_H, "TILE_W": level.TILE_W}
        elif self.function == "_mix_relu_sum":
            tile_k = 16 if self.maps == "fp32" else 32
            sizes = {"KEEP_MASK": True, "PRECISION": "ieee", "TILE_P": 64, "TILE_N": 64, "TILE_K": tile_k}
        elif self.module.endswith("triton_sum"):
            sums = importlib.import_module(self.module)
            sizes = {"TILE_P": sums._TILE_P, "TILE_C": sums._TILE_C}
        else:
            norm = importlib.import_module(self.module)
            if "TILE_B" in self.kernel.arg_names:
                sizes = {"TILE_B": norm._SUM_B, "TILE_C": norm._SUM_C}
            else:
                pixels = norm._BLOCK_P if "sums" in self.function else norm._TILE_P
                sizes = {"TILE_P": pixels, "TILE_C": norm._TILE_C}
        return {name: value for name, value in sizes.items() if name in self.kernel.arg_names}

    def options(self) -> dict[str, Any]:
        if self.module.endswith("triton_sum"):
            return {"num_warps": importlib.import_module(self.module)._WARPS}
        if self.maps:
            return {}
        level = importlib.import_module("preprocessing.flow.torch.level")
        return {"num_warps": level.WARPS, "enable_fp_fusion": False}


def cases() -> list[Case]:
    """All kernels that are launched, found by looking for them: those that no other kernel calls."""
    found = []
    for name in MODULES:
        module = importlib.import_module(name)
        for function in sorted(_compiled_functions(module)):
            of_network = name.startswith("pipeline.")
            found += [Case(name, function, maps) for maps in (("bf16", "fp32") if of_network else ("",))]
    called = {word for name in MODULES for word in _called(importlib.import_module(name))}
    return [case for case in found if case.function not in called]


def _compiled_functions(module: ModuleType) -> Iterator[str]:
    """Those that the module itself defines."""
    from triton.runtime.jit import JITFunction

    for name, value in vars(module).items():
        if isinstance(value, JITFunction) and value.fn.__module__ == module.__name__:
            yield name


def _called(module: ModuleType) -> Iterator[str]:
    """Names that functions with the decorator of a kernel call."""
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if isinstance(node, ast.FunctionDef) and any("jit" in ast.dump(d) for d in node.decorator_list):
            for inner in ast.walk(node):
                if isinstance(inner, ast.Call) and isinstance(inner.func, ast.Name):
                    yield inner.func.id


@functools.cache
def compiled(case: Case, capability: int, **options: Any) -> Any:
    """The kernel for GPUs of that compute capability (times 10), pointers aligned as torch's are.

    Args:
        options: of Triton's compiler, besides those of the launch.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    types, constants = case.types(), case.constants()
    places = {name: (place,) for place, name in enumerate(case.kernel.arg_names)}
    source = ASTSource(
        fn=case.kernel,
        signature=types,
        constexprs={places[name]: value for name, value in constants.items()},
        attrs={places[name]: [["tt.divisibility", 16]] for name, kind in types.items() if kind.startswith("*")},
    )
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options={**case.options(), **options})


@dataclasses.dataclass(frozen=True)
class Usage:
    """Of one thread."""

    registers: int
    spilled: int
    """Bytes of memory in place of registers."""


def usage(case: Case, capability: int, **options: Any) -> Usage:
    """What the assembler took, as NVIDIA's own tool tells."""
    import triton

    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(compiled(case, capability, **options).asm["cubin"])
        text = subprocess.run([tool, "-res-usage", cubin], capture_output=True, text=True, check=True).stdout
    numbers = {name: int(value) for name, value in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", text)}
    return Usage(numbers["REG"], numbers["STACK"] + numbers["LOCAL"])


def main() -> None:
    """Write the table."""
    import triton

    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    table = {
        case.name: {str(capability): usage(case, capability).registers for capability in CAPABILITIES}
        for case in cases()
    }
    TABLE.write_text(json.dumps({"triton": triton.__version__, "registers": table}, indent=1) + "\n")
    print(f"{len(table)} kernels in {TABLE}")


if __name__ == "__main__":
    main()
