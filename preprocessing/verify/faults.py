"""What can be wrong with a stored data set, and where it was found."""

from __future__ import annotations

import dataclasses

KINDS: dict[str, str] = {
    "manifest": "the manifest cannot be read, is not in canonical form, or contradicts itself",
    "missing": "an object that the manifest lists is not in the storage",
    "record": "a shard's record is not the one the manifest lists, or contradicts it or itself",
    "index": "a shard's DALI index does not follow from its record",
    "tar": "a tar does not have the size, the sha256 or the members of its record",
    "crc32": "a member's bytes are not those that were written",
    "key": "a key is outside the grammar, or occurs twice in the data set",
    "source": "a source occurs twice in the data set",
    "label": "a label without a class",
    "json": "KEY.json does not agree with the record",
    "undecodable": "a member's bytes are as written, but do not decode",
    "num_frames": "a video has another number of frames",
    "size": "a video's pictures have another size",
    "clock": "a video's frame rate is not constant, or not that of the record",
    "misaligned": "a frame is not at the time of its rgb frame",
    "content": "a difference video shows another moment than rgb, or flow vectors are not as long as computed",
    "flow": "shards of one data set have flow of different engines or parameters",
    "stray": "an object below train/, val/ or test/ that the manifest does not list; readers never see it: delete it",
}
"""The closed list of kinds of faults."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fault:
    """One thing that is wrong, and where: ``shard`` as SPLIT/NAME, ``sample`` a key, ``member`` an extension; empty
    for a fault of the whole.
    """

    shard: str = ""
    sample: str = ""
    member: str = ""
    kind: str  # one of KINDS
    detail: str  # what was expected and what was found

    @property
    def place(self) -> str:
        """``shard/sample.member``, as far as it is known."""
        file = ".".join(part for part in (self.sample, self.member) if part)
        return "/".join(part for part in (self.shard, file) if part) or "manifest.json"

    def __str__(self) -> str:
        return f"{self.place}: {self.kind}: {self.detail}"


class FaultList:
    """Collects the faults of one shard."""

    def __init__(self, shard: str) -> None:
        self.shard, self.found = shard, list[Fault]()

    def add(self, kind: str, detail: str, sample: str = "", member: str = "") -> None:
        self.found.append(Fault(shard=self.shard, sample=sample, member=member, kind=kind, detail=detail))

    def differ(self, kind: str, what: str, expected: object, found: object, sample: str = "", member: str = "") -> bool:
        """Add a fault if the two are not equal; returns whether they differ."""
        if expected != found:
            self.add(kind, f"{what}: expected {expected}, found {found}", sample, member)
        return expected != found
