"""Compiles the loops of ``kernels`` for their one signature each, or loads them from numba's cache."""

from __future__ import annotations

import functools
import logging
import pickle
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from numba import njit, types

from pipeline.data.decoding.kernels import OPTIONS, codes, colour, difference, finish, planes

log = logging.getLogger(__name__)
_compiling = threading.Lock()

_U8, _F3, _F4 = types.uint8[:, :, ::1], types.float32[:, :, ::1], types.float32[:, :, :, ::1]
_AT, _WEIGHTS, _LIST, _FLAT, _ONE = (
    types.int32[::1],
    types.float32[:, ::1],
    types.float32[::1],
    types.float32[::1],
    types.float32,
)
_BANDS = (_AT, _WEIGHTS) * 4
_SIGNATURES: dict[Callable[..., None], tuple[Any, ...]] = {
    codes: (_U8, _U8, _U8, *_BANDS, _WEIGHTS, _F4),
    finish: (_F4, _AT, _WEIGHTS, _LIST, _LIST, types.boolean, _FLAT),
    colour: (_U8, _U8, _U8, *_BANDS, _WEIGHTS, _AT, _WEIGHTS, _LIST, _LIST, types.boolean, _FLAT),
    difference: (_F4, _AT, _AT, _ONE, _LIST, types.boolean, _FLAT),
    planes: (_U8, _U8, *_BANDS[:4], _AT, _LIST, _LIST, types.boolean, _FLAT),
}


class Kernels(NamedTuple):
    """The compiled loops; they release the interpreter and may run in several threads at once."""

    codes: Callable[..., None]
    finish: Callable[..., None]
    colour: Callable[..., None]
    difference: Callable[..., None]
    planes: Callable[..., None]


def _compile(cache: bool) -> Kernels:
    compiled = []
    for function, arguments in _SIGNATURES.items():
        kernel = njit(cache=cache, **OPTIONS)(function)
        kernel.compile(types.void(*arguments))
        kernel.disable_compile()
        compiled.append(kernel)
    return Kernels(*compiled)


@functools.cache
def _compiled() -> Kernels:
    start_s = time.perf_counter()
    try:
        kernels = _compile(cache=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        # No folder to write to (numba says so with a RuntimeError), a full disk, a damaged file of an earlier process.
        log.info("compiled code cannot be kept (%s); this process compiles its own", error)
        kernels = _compile(cache=False)
    log.debug("the picture kernels were ready after %.1f s", time.perf_counter() - start_s)
    return kernels


def load_kernels() -> Kernels:
    """The kernels: from numba's cache, or compiled now (seconds). Safe to call from several threads."""
    with _compiling:
        return _compiled()
