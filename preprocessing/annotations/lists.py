"""Reading lists (text and CSV) from a folder, bucket or archive, with file and line for messages."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

from pipeline.common.typed import shown
from pipeline.errors import RejectedSource, StorageError, UserError
from preprocessing.annotations.locate import top_folder
from preprocessing.sources import PackedStore, SourceStore, open_sources
from preprocessing.sources.base import escapes


@dataclasses.dataclass(frozen=True)
class Lists:
    """The folder of the lists, or one file of it: ``only``."""

    store: SourceStore
    only: str | None = None
    prefix: str = ""  # folder in the store, with a slash

    @property
    def uri(self) -> str:
        """The folder, for messages."""
        return f"{self.store.uri}/{self.prefix}".rstrip("/")

    def names(self, folders: Sequence[str] = ("",)) -> list[str]:
        """The files in any of ``folders`` (with a slash), sorted; ``only`` where one file was named."""
        if self.only:
            return [self.only]
        below = (path[len(self.prefix) :] for path, _ in self.store.walk() if path.startswith(self.prefix))
        return [path for path in below if path[: path.rfind("/") + 1] in folders]

    def where(self, name: str) -> str:
        """URI of a file, for messages."""
        return f"{self.uri}/{name}"

    def has(self, name: str) -> bool:
        """Whether there is a file ``name``."""
        try:
            with self.store.local(self.prefix + name):
                return True
        except RejectedSource:
            return False

    def text(self, name: str) -> str:
        """The whole file. UserError where it cannot be read or is not UTF-8."""
        try:
            with self.store.local(self.prefix + name) as file:
                return file.read_bytes().decode("utf-8-sig")  # lists edited on Windows start with a byte order mark
        except RejectedSource as error:
            raise UserError(f"cannot read {self.where(name)}: {error.detail}; check --annotations") from error
        except UnicodeDecodeError as error:
            raise UserError(f"{self.where(name)} is not UTF-8 text ({error}): save it as UTF-8") from error
        except OSError as error:
            raise StorageError(f"cannot read {self.where(name)}: {error}") from error

    def lines(self, name: str) -> list[tuple[str, str]]:
        """Lines that are not blank: (``FILE:LINE``, stripped text)."""
        lines = self.text(name).replace("\r\n", "\n").replace("\r", "\n").split("\n")
        return [(f"{self.where(name)}:{i}", line.strip()) for i, line in enumerate(lines, 1) if line.strip()]

    def rows(self, name: str) -> Iterator[tuple[str, list[str]]]:
        """CSV rows that are not blank: (``FILE:LINE``, stripped fields). UserError for a broken quote."""
        reader = csv.reader(io.StringIO(self.text(name), newline=""), strict=True)
        try:
            for row in reader:
                fields = [field.strip() for field in row]
                if any(fields):
                    yield f"{self.where(name)}:{reader.line_num}", fields
        except csv.Error as error:
            raise UserError(
                f"{self.where(name)}:{reader.line_num}: {error}: quote fields that contain commas or quotes, and double"
                " a quote inside"
            ) from error

    def table(
        self, name: str, required: Sequence[str], optional: Sequence[str] = ()
    ) -> Iterator[tuple[str, dict[str, str]]]:
        """CSV rows by the names in the header; other columns are left out, and missing fields at a row's end are
        empty.
        """
        rows = self.rows(name)
        where, header = next(rows, (self.where(name), []))
        columns = {field.lower(): i for i, field in enumerate(header)}
        if absent := [column for column in required if column not in columns]:
            raise UserError(
                f"{where}: the header has no column {', '.join(absent)}; it must start with a header line like"
                f" {','.join([*required, *optional])}, got {shown(','.join(header))}"
            )
        twice = [column for column in (*required, *optional) if [f.lower() for f in header].count(column) > 1]
        if twice:
            raise UserError(f"{where}: the header has the column {twice[0]} twice: keep one of them")
        wanted = {column: columns[column] for column in (*required, *optional) if column in columns}
        for where, fields in rows:
            if len(fields) > len(header):
                raise UserError(
                    f"{where}: {len(fields)} fields where the header has {len(header)}: quote fields that contain"
                    " commas"
                )
            yield where, {column: fields[i] if i < len(fields) else "" for column, i in wanted.items()}


def open_lists(annotations: str, store: SourceStore) -> Lists:
    """The lists at ``annotations`` (folder or file, local or ``s3://``); if empty, those next to the videos.

    Raises:
        UserError: there is nothing at ``annotations``.
    """
    if not annotations:
        return Lists(store)
    folder, _, name = annotations.rstrip("/").rpartition("/")
    if PurePosixPath(name).suffix.lower() in (".csv", ".txt"):
        if folder in ("", "file://"):  # "/list.csv" lies in "/", "list.csv" in the current folder
            folder = f"{folder}/" if "/" in annotations else "."
        return Lists(open_sources(folder, field="annotations", archives=False), name)
    found = open_sources(annotations, field="annotations", archives=False)
    return Lists(found, prefix=top_folder(found, levels=1) if isinstance(found, PackedStore) else "")


def clean_path(text: str) -> str:
    """A listed path without ``./`` and doubled slashes; one that leaves the folder is kept unchanged, and rejected
    later.
    """
    return text if escapes(text) else PurePosixPath(text).as_posix()
