"""Training steps through torch.compile: minutes of compiling, so these come last, and only where they are asked for."""

from __future__ import annotations

from collections.abc import Iterator

from jobs.bench.gpu import crn, mrst
from jobs.bench.gpu.settings import Row, Settings, guarded
from jobs.bench.gpu.training import Variant, step_row

_NEEDS_S = 60.0


def measure(settings: Settings) -> Iterator[Row]:
    """MRST-T and CRN at one batch each."""
    needs_s = 1.0 if settings.tiny else _NEEDS_S
    for network, batch in ((mrst, 8), (crn, 4)):
        config = network.config_for(2 if settings.tiny else batch, settings.tiny)
        name = f"{'MRST-T' if network is mrst else 'CRN'} {batch}: compiled"
        variant = Variant(compiled=True)
        yield from guarded(
            settings, name, lambda c=config, n=network, v=variant: step_row(c, n.CLASSES, v, settings), needs_s
        )
