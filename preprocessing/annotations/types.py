"""What a list of videos says: one ``Source`` a video, and ``Annotations`` for all of them."""

from __future__ import annotations

import dataclasses
import logging
import unicodedata

from pipeline.errors import UserError

log = logging.getLogger(__name__)
SPLITS = ("train", "val", "test")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """One planned input."""

    path: str  # of the file, relative to the source store, with /
    label: int  # index into the class list
    split: str  # train, val or test
    start_s: float | None = None  # part of the file, in seconds; None: from the start
    end_s: float | None = None  # None: to the end
    identity: str | None = None  # what the lists call it, where that is not the path and the part
    picture: bool = False  # a picture file, which gives a sample of one frame

    @property
    def name(self) -> str:
        """Identity in the data set, independent of how and where the file was found.

        What the lists call the video, or its path and part: ``PATH``, ``PATH#START-END``, ``PATH#START-``. A ``#`` is
        appended to a path that contains one, so that what follows the last ``#`` is always the part.
        Composed characters (NFC), because some file systems store names in decomposed form.
        """
        name = self.identity
        if name is None:
            part = (
                ""
                if self.start_s is None and self.end_s is None
                else f"{_seconds(self.start_s or 0.0)}-{_seconds(self.end_s)}"
            )
            name = f"{self.path}#{part}" if part or "#" in self.path else self.path
        return name if name.isascii() else unicodedata.normalize("NFC", name)


def _seconds(value_s: float | None) -> str:
    return "" if value_s is None else f"{value_s:.6f}".rstrip("0").rstrip(".")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Annotations:
    """Class names in label order, and every source once."""

    classes: tuple[str, ...]
    sources: tuple[Source, ...]

    def check(self, where: str, *, train: bool = True) -> Annotations:
        """Return self; UserError if a class has no training sample (``where`` names the list).

        Args:
            train: False allows a list without any training sample: a data set to evaluate on.
        """
        if not self.sources:
            raise UserError(f"{where}: lists no video")
        present = {s.label for s in self.sources if s.split == "train"}
        if not present and not train:
            log.warning("%s: there is no train split; the data set can be evaluated on, not trained on", where)
            return self
        empty = [name for label, name in enumerate(self.classes) if label not in present]
        if empty:
            raise UserError(
                f"{where}: no sample of the train split for {len(empty)} of {len(self.classes)} classes:"
                f" {', '.join(empty[:5])}; list some or drop the class"
            )
        return self
