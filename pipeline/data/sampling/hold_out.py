"""Which samples of a training split are kept back for validation, where a data set has no split for it.

Videos cut from one source (one shoot, one scene, one upload) look alike: a network that has seen one of them knows the
others. So whole sources are kept back, never single videos of one. Which ones follows from names and labels alone:
every run, seed and rank on a data set keeps back the same.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

import numpy as np

# What names say of their source in the data sets of the papers.
_KNOWN = (
    re.compile(r"_(g\d+)_c\d+"),  # UCF-101: v_CLASS_gSOURCE_cPART
    re.compile(r"^(.+)_[fhlu]_(?:cm|nm)_np\d_"),  # HMDB-51: SOURCE_CLASS_BODY_CAMERA_PEOPLE_VIEW_QUALITY_PART
    re.compile(r"^(.+)_\d{6}_\d{6}"),  # Kinetics: VIDEO_BEGIN_END
)


def source_group(name: str, pattern: str = "") -> str:
    """The source of a video, by its name.

    Args:
        name: a sample's key without its hash, which is the name of its file without ending.
        pattern: a regular expression to search for; its first group, or the whole of what it matches, is the source. A
            name without a match is its own source. Empty: the names of UCF-101, HMDB-51 and Kinetics are known.
    """
    for known in (re.compile(pattern),) if pattern else _KNOWN:
        if match := known.search(name):
            return match.group(1 if known.groups else 0)
    return name


def held_out(groups: Sequence[str], labels: np.ndarray, share: float) -> np.ndarray:
    """Whole groups, in an order that their names' hashes give, until every class has about its share.

    A group is taken if that brings the numbers of the classes closer to their shares (in the sum of differences) and
    leaves every class a sample to train on.

    Args:
        groups: (N,) source of each sample.
        labels: (N,) int64 class of each sample.
        share: wanted part of each class, in (0, 1).

    Returns:
        (N,) bool: True for the samples to keep back.
    """
    members: dict[str, list[int]] = {}
    for i, group in enumerate(groups):
        members.setdefault(group, []).append(i)
    total = np.bincount(labels)
    taken, kept_back = np.zeros(len(total), np.int64), np.zeros(len(labels), bool)
    for group in sorted(members, key=lambda name: hashlib.sha256(name.encode()).digest()):
        classes, more = np.unique(labels[members[group]], return_counts=True)
        before, wanted = taken[classes], share * total[classes]
        closer = np.abs(before + more - wanted).sum() < np.abs(before - wanted).sum()
        if closer and (before + more < total[classes]).all():
            taken[classes] += more
            kept_back[members[group]] = True
    return kept_back
