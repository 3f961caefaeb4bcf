"""Warnings about a data set, one plain sentence each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pipeline.common.words import counted
from pipeline.dataset.manifest import Manifest
from pipeline.dataset.rules import stored_parameters
from preprocessing.report.survey import Survey

_FEW_SAMPLES = 5
_REJECT_SHARE = 0.1
_SATURATED = 0.01  # share of a sample's flow values beyond the bound
_STILL_PX = 0.02  # mean flow below which a sample hardly moves
_SHARE = 0.01  # of the samples: rarer problems of single samples are not reported
_SMALL_SHARD, _LARGE_SHARD, _GOOD_SHARD = 16e6, 4e9, 250e6  # bytes
_FEW_SHARDS = 8  # with fewer, their size hardly matters
_NAMES = 5


def warnings(manifest: Manifest, found: Survey, damaged: Mapping[str, str], uri: str) -> list[str]:
    """Warnings, the most serious first; empty if nothing is unusual."""
    notes = []
    num_samples, num_rejects = manifest.num_samples, manifest.num_rejects
    if damaged:
        notes.append(
            f"{len(damaged)} of the samples to show do not read back ({_some(list(damaged))}): run python -m"
            f" jobs.verify {uri}."
        )
    if len(found.flows) > 1:
        notes.append(f"Flow comes from {len(found.flows)} different engines or versions; one data set should have one.")
    empty = [c.name for c in found.classes if not c.num_samples]
    if empty:
        notes.append(f"{len(empty)} of {len(found.classes)} classes have no sample: {_some(empty)}.")
    few = [c.name for c in found.classes if 0 < c.num_samples < _FEW_SAMPLES]
    if few:
        notes.append(
            f"{len(few)} of {len(found.classes)} classes have fewer than {_FEW_SAMPLES} samples: {_some(few)}."
        )
    if num_rejects > _REJECT_SHARE * manifest.num_inputs:
        reason, count = found.reasons.most_common(1)[0]
        notes.append(
            f"{num_rejects:,} of {manifest.num_inputs:,} sources ({num_rejects / manifest.num_inputs:.1%}) were"
            f" rejected, most often: {reason} ({count:,})."
        )
    else:
        lossy = [c.name for c in found.classes if c.num_rejects > _REJECT_SHARE * (c.num_rejects + c.num_samples)]
        if lossy:
            notes.append(
                f"{counted(len(lossy), 'class', 'classes')} lost more than a tenth of their sources: {_some(lossy)}."
            )
    notes += _flow_notes(manifest, found)
    if found.enlarged > _SHARE * num_samples:
        notes.append(
            f"{found.enlarged:,} of {num_samples:,} samples are larger than their sources: the short side that is"
            " stored adds no detail there."
        )
    if found.maybe_cut > _SHARE * num_samples:
        notes.append(
            f"{found.maybe_cut:,} of {num_samples:,} samples come from files that do not say their length: whether one"
            " is cut off cannot be seen."
        )
    if found.not_square > _SHARE * num_samples and not manifest.parameters.get("square_pixels"):
        notes.append(
            f"{found.not_square:,} of {num_samples:,} samples have pixels that are not square and look squeezed or"
            " stretched: --stored.square-pixels stores the shape in which they are shown."
        )
    if len(found.shard_bytes) > _FEW_SHARDS:
        mean = float(np.mean(found.shard_bytes))
        if not _SMALL_SHARD <= mean <= _LARGE_SHARD:
            good = max(1, round(num_samples * _GOOD_SHARD / max(sum(found.shard_bytes), 1)))
            why = (
                "many small objects are slow to list and to read"
                if mean < _SMALL_SHARD
                else "a failed shard costs hours"
            )
            notes.append(
                f"A shard has {mean / 1e6:,.1f} MB on average: {why}; --samples-per-shard {good} would give about"
                f" {_GOOD_SHARD / 1e6:.0f} MB."
            )
    return notes


def _flow_notes(manifest: Manifest, found: Survey) -> list[str]:
    if "flow" not in manifest.modalities or not manifest.num_samples:
        return []
    notes, bound = [], stored_parameters(manifest.parameters).flow_bound
    saturation = np.asarray(found.flow_saturation)
    above = int(np.sum(saturation > _SATURATED))
    if above > _SHARE * len(saturation):
        notes.append(
            f"{above:,} of {len(saturation):,} samples have more than {_SATURATED:.0%} of their flow beyond the bound"
            f" of {bound:g} px, where it is cut off (mean over all samples {float(saturation.mean()):.2%}): a larger"
            " --stored.flow-bound, a higher frame rate or a smaller short side keeps it."
        )
    still = int(np.sum(np.asarray(found.flow_mean_px) < _STILL_PX))
    if still > _SHARE * len(found.flow_mean_px):
        notes.append(
            f"{still:,} of {len(found.flow_mean_px):,} samples hardly move: their mean flow is below {_STILL_PX} px per"
            " frame."
        )
    lacking = manifest.num_samples - len(found.flow_mean_px)
    if lacking:
        notes.append(
            f"{lacking:,} of {manifest.num_samples:,} samples have no figure for the length of their flow: their"
            " records were written by an earlier version."
        )
    return notes


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMES]) + (f" and {len(names) - _NAMES} more" if len(names) > _NAMES else "")
