"""A storage for Ray Train that holds nothing.

Ray Train wants a file system for checkpoints, for its record of them and for a marker by which it checks that every
node reaches it. Checkpoints are ours (``pipeline.checkpoints``), and a record of Ray's that is cut or gone must not
matter: so what is written here is dropped, and nothing is found but that marker.
"""

from __future__ import annotations

import io
from typing import Any, NoReturn

import pyarrow as pa
import pyarrow.fs
from ray.train.v2._internal.constants import VALIDATE_STORAGE_MARKER_FILENAME as MARKER


class _Dropped(io.RawIOBase):
    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        return len(data)


class EmptyHandler(pyarrow.fs.FileSystemHandler):
    """pyarrow file system on which every write succeeds and leaves nothing."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, EmptyHandler)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(EmptyHandler)

    def get_type_name(self) -> str:
        return "empty"

    def normalize_path(self, path: str) -> str:
        return path.strip("/")

    def get_file_info(self, paths: list[str]) -> list[pyarrow.fs.FileInfo]:
        return [self._info(path.strip("/")) for path in paths]

    def _info(self, path: str) -> pyarrow.fs.FileInfo:
        if path.rpartition("/")[2] == MARKER:
            return pyarrow.fs.FileInfo(path, pyarrow.fs.FileType.File, size=0)
        return pyarrow.fs.FileInfo(path, pyarrow.fs.FileType.NotFound)

    def get_file_info_selector(self, selector: pyarrow.fs.FileSelector) -> list[pyarrow.fs.FileInfo]:
        return []

    def create_dir(self, path: str, recursive: bool) -> None:
        """Nothing to do."""

    def delete_dir(self, path: str) -> None:
        """Nothing to do."""

    def delete_dir_contents(self, path: str, missing_dir_ok: bool = False) -> None:
        """Nothing to do."""

    def delete_root_dir_contents(self) -> None:
        """Nothing to do."""

    def delete_file(self, path: str) -> None:
        """Nothing to do."""

    def move(self, src: str, dest: str) -> None:
        self._missing(src)

    def copy_file(self, src: str, dest: str) -> None:
        self._missing(src)

    def open_input_stream(self, path: str) -> pa.NativeFile:
        self._missing(path)

    def open_input_file(self, path: str) -> pa.NativeFile:
        self._missing(path)

    def _missing(self, path: str) -> NoReturn:
        raise FileNotFoundError(f"{path}: nothing is kept here")

    def open_output_stream(self, path: str, metadata: Any) -> pa.NativeFile:
        return pa.PythonFile(_Dropped(), mode="w")

    def open_append_stream(self, path: str, metadata: Any) -> pa.NativeFile:
        return self.open_output_stream(path, metadata)


def empty_file_system() -> pyarrow.fs.PyFileSystem:
    """File system for ``ray.train.RunConfig(storage_filesystem=...)``."""
    return pyarrow.fs.PyFileSystem(EmptyHandler())
