"""A data set as one HTML page that needs nothing else: totals, warnings, contact sheets, distributions, rejects.

page = make_report(open_storage(uri))
Path("report.html").write_bytes(page.html)
"""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import cv2
import numpy as np
from rich import filesize

from pipeline.common.media import WrongPictureSize
from pipeline.common.pages import page_environment
from pipeline.dataset.manifest import Manifest, read_manifest
from pipeline.dataset.rules import stored_parameters
from pipeline.errors import NotFoundError
from pipeline.storage import Storage
from preprocessing.media.decode import REASONS
from preprocessing.report.pictures import DIFF_GAIN, NUM_MOMENTS, Strips, data_uri, jpeg, read_strips, wheel_legend
from preprocessing.report.plots import Plot, bars, histogram
from preprocessing.report.survey import ClassTotals, Pick, Survey, survey
from preprocessing.report.warnings import warnings

log = logging.getLogger(__name__)
MAX_PICTURE_BYTES = 20 << 20  # of all contact sheets; base64 makes a third more of it
_THUMB_PX, _SMALL_THUMB_PX = 136, 96
_MANY_SAMPLES = 600  # beyond this, thumbnails are small
_THREADS = 4  # while one sample is decoded, others are being fetched
_MOST_REJECT_CLASSES = 20
_MOST_SIZES = 8
_FULL_PX = (2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 30, 40, 60, 80, 120)
_ORDER = {"train": 0, "val": 1, "test": 2}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Page:
    """The page and what is in it."""

    html: bytes
    num_classes_shown: int
    num_samples_shown: int
    warnings: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sheet:
    """The contact sheet of one class."""

    label: int
    totals: ClassTotals
    strips: tuple[Strips, ...]


def make_report(
    storage: Storage,
    *,
    samples_per_class: int = 4,
    max_classes: int = 100,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Page:
    """Read a data set's records and a few of its samples, and write the page.

    Args:
        samples_per_class: shown on a contact sheet; 0: no pictures.
        max_classes: classes with a contact sheet, evenly spaced; the table has all of them. Whatever is asked for,
            sheets end where their pictures reach 20 MiB.
        progress: called with (classes done, classes to do).

    Raises:
        ManifestError: there is no data set, or a record is not the one the manifest lists.
        StorageError: reading failed.
    """
    manifest = read_manifest(storage)
    found = survey(storage, manifest, samples_per_class)
    labels = [label for label, totals in enumerate(found.classes) if found.picks(label) and totals.num_samples]
    shown = (
        [labels[i * len(labels) // max_classes] for i in range(max_classes)] if len(labels) > max_classes else labels
    )
    sheets, damaged = _read_sheets(storage, manifest, found, shown, progress)
    bound_px = stored_parameters(manifest.parameters).flow_bound
    strips = [s for sheet in sheets for s in sheet.strips if s.flow_codes is not None]
    full_px = _full_scale(np.concatenate([s.flow_lengths_px(bound_px)[::7] for s in strips])) if strips else 1.0
    notes = warnings(manifest, found, damaged, storage.uri)
    environment = page_environment(Path(__file__).parent)
    environment.filters.update(size=filesize.decimal, hours=_hours)
    html = environment.get_template("page.html.j2").render(
        uri=storage.uri,
        manifest=manifest,
        found=found,
        warnings=notes,
        sheets=sheets,
        bound_px=bound_px,
        full_px=full_px,
        gain=DIFF_GAIN,
        moments=NUM_MOMENTS,
        splits=sorted(found.splits.items(), key=lambda item: (_ORDER.get(item[0], 3), item[0])),
        reasons=REASONS,
        plots=_plots(found),
        flow_text=_flow_text(manifest, found),
        wheel=data_uri(_png(wheel_legend()), "png"),
        jpeg_uri=lambda data: data_uri(data, "jpeg"),
        modalities=[m for m in ("rgb", "flow", "diff") if m in manifest.modalities],
        reject_classes=sorted((c for c in found.classes if c.num_rejects), key=lambda c: (-c.num_rejects, c.name)),
        most_reject_classes=_MOST_REJECT_CLASSES,
        sheet_labels={sheet.label for sheet in sheets},
    )
    return Page(
        html=html.encode("utf-8", "replace"),
        num_classes_shown=len(sheets),
        num_samples_shown=sum(len(s.strips) for s in sheets),
        warnings=tuple(notes),
    )


def _read_sheets(
    storage: Storage, manifest: Manifest, found: Survey, labels: list[int], progress: Callable[[int, int], None]
) -> tuple[list[Sheet], dict[str, str]]:
    """Contact sheets, as many as fit, and the samples that do not read back with the reason."""
    cv2.setNumThreads(1)
    thumb_px = _THUMB_PX if len(labels) * found.per_class <= _MANY_SAMPLES else _SMALL_THUMB_PX
    damaged: dict[str, str] = {}

    def read(pick: Pick) -> Strips | None:
        try:
            return read_strips(storage, pick, manifest.modalities, thumb_px)
        except (ValueError, IndexError, av.FFmpegError, WrongPictureSize, NotFoundError) as error:
            damaged[pick.sample.key] = str(error)
            log.warning("%s in %s does not read back: %s", pick.sample.key, pick.tar, error)
            return None

    sheets: list[Sheet] = []
    num_bytes = 0
    with ThreadPoolExecutor(_THREADS) as pool:
        for done, label in enumerate(labels):
            strips = tuple(s for s in pool.map(read, found.picks(label)) if s is not None)
            # Flow is not in colour yet: about as large as the RGB.
            num_bytes += sum(
                sum(map(len, s.jpegs.values())) + (len(s.jpegs["rgb"]) if s.flow_codes is not None else 0)
                for s in strips
            )
            if num_bytes > MAX_PICTURE_BYTES:
                log.warning(
                    "the contact sheets end after %d of %d classes: their pictures reach %d MiB",
                    len(sheets),
                    len(labels),
                    MAX_PICTURE_BYTES >> 20,
                )
                break
            if strips:
                sheets.append(Sheet(label=label, totals=found.classes[label], strips=strips))
            progress(done + 1, len(labels))
    return sheets, damaged


def _full_scale(lengths_px: np.ndarray) -> float:
    """A round length that 99 % of the shown vectors do not reach; at least 2 px, or the steps of quantisation would
    show.
    """
    reached = float(np.quantile(lengths_px, 0.99))
    return next((px for px in _FULL_PX if px >= reached), _FULL_PX[-1])


def _plots(found: Survey) -> list[Plot]:
    plots = []
    if found.frames:
        plots.append(histogram(found.frames, title="Length in frames", unit="frames"))
        plots.append(histogram(found.seconds, title="Length in seconds", unit="s", digits=1))
        plots.append(_sizes(found.sizes, "Stored size", max))
    if found.source_sizes:
        plots.append(_sizes(found.source_sizes, "Source size", min))
    if found.flow_mean_px:
        plots.append(histogram(found.flow_mean_px, title="Mean flow", unit="px per frame", digits=2))
    if found.flow_saturation:
        percent = 100 * np.asarray(found.flow_saturation, np.float64)
        plots.append(
            histogram(percent, title="Flow saturation", unit="% of values beyond the bound", digits=2, log_counts=True)
        )
    if found.flow_error_px:
        plots.append(
            histogram(found.flow_error_px, title="Flow quantisation error", unit="px, mean of a sample", digits=3)
        )
    if found.shard_bytes:
        plots.append(
            histogram(np.asarray(found.shard_bytes) / 1e6, title="Shard size", unit="MB", digits=1, counted="shards")
        )
    return plots


def _sizes(sizes: Counter[tuple[int, int]], title: str, side: Callable[[tuple[int, int]], int]) -> Plot:
    """Bars of a few sizes; of many, the distribution of one side (all stored samples share the short one)."""
    if len(sizes) <= _MOST_SIZES:
        return bars(
            [(f"{w}x{h}", count) for (w, h), count in sizes.most_common()],
            title=title,
            caption="width x height in pixels",
        )
    values = np.repeat([side(size) for size in sizes], list(sizes.values()))
    plot = histogram(values, title=title, unit="px, " + ("long side" if side is max else "short side"))
    return dataclasses.replace(
        plot, caption=f"{plot.caption}; {len(sizes)} sizes, most often {'x'.join(map(str, sizes.most_common(1)[0][0]))}"
    )


def _flow_text(manifest: Manifest, found: Survey) -> str:
    if "flow" not in manifest.modalities:
        return "not stored"
    if manifest.flow:
        return f"{manifest.flow.get('engine')} {manifest.flow.get('version')}, mode {manifest.flow.get('mode')}"
    if not found.flows:  # records from before the engine was in them
        return f"TV-L1, engine {manifest.parameters.get('flow_engine', 'unknown')}"
    return "; ".join(f"{engine} {version}, mode {mode}" for engine, version, mode in sorted(found.flows))


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:,.1f} h" if seconds >= 36000 else f"{seconds / 3600:.3f} h"


def _png(rgb: np.ndarray) -> bytes:
    done, data = cv2.imencode(".png", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
    return data.tobytes() if done else jpeg(rgb)
