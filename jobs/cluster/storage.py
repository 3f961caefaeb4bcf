"""Ray Train's storage on our own client.

Ray writes checkpoints and its run state through a pyarrow file system. pyarrow's own S3 client deletes folders with
DeleteObjects, which some S3 servers refuse, and knows nothing of our retries and credentials; this adapter hands
every call to ``pipeline.storage``, so that training needs no second S3 client and no second configuration.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs

from pipeline.errors import NotFoundError
from pipeline.storage import open_storage


class _Upload(io.RawIOBase):
    """A file that is stored under its name when it is closed, and only if nothing failed before."""

    def __init__(self, root: str, path: str) -> None:
        super().__init__()
        self._root, self._path = root, path
        self._file = tempfile.NamedTemporaryFile()  # noqa: SIM115 - closed in close(), which removes it

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        return self._file.write(data)

    def flush(self) -> None:
        if not self._file.closed:
            self._file.flush()

    def close(self) -> None:
        if self.closed:
            return
        try:
            self._file.flush()
            open_storage(self._root).write_file(self._path, Path(self._file.name))
        finally:
            self._file.close()
            super().close()


class StorageHandler(pyarrow.fs.FileSystemHandler):
    """pyarrow file system below one storage URI. Folders exist where an object lies below them, or were created in
    memory.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StorageHandler) and other.uri == self.uri

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(self.uri)

    def get_type_name(self) -> str:
        return "reciprocal"

    def normalize_path(self, path: str) -> str:
        return path.strip("/")

    def get_file_info(self, paths: list[str]) -> list[pyarrow.fs.FileInfo]:
        return [self._info(path.strip("/")) for path in paths]

    def _info(self, path: str) -> pyarrow.fs.FileInfo:
        storage = open_storage(self.uri)
        try:
            return pyarrow.fs.FileInfo(path, pyarrow.fs.FileType.File, size=storage.size(path))
        except NotFoundError:
            below = next(iter(storage.list(f"{path}/" if path else "")), None)
            kind = pyarrow.fs.FileType.NotFound if below is None else pyarrow.fs.FileType.Directory
            return pyarrow.fs.FileInfo(path, kind)

    def get_file_info_selector(self, selector: pyarrow.fs.FileSelector) -> list[pyarrow.fs.FileInfo]:
        base = selector.base_dir.strip("/")
        files = list(self._below(base))
        if not files and not selector.allow_not_found and base:
            raise FileNotFoundError(f"{self.uri}/{base}")
        infos: dict[str, pyarrow.fs.FileInfo] = {}
        for path in files:
            relative = path[len(base) :].strip("/").split("/")
            for depth in range(1, len(relative)):
                folder = "/".join([*([base] if base else []), *relative[:depth]])
                if depth == 1 or selector.recursive:
                    infos.setdefault(folder, pyarrow.fs.FileInfo(folder, pyarrow.fs.FileType.Directory))
            if len(relative) == 1 or selector.recursive:
                infos[path] = self._info(path)
        return list(infos.values())

    def _below(self, base: str) -> Iterator[str]:
        return open_storage(self.uri).list(f"{base}/" if base else "")

    def create_dir(self, path: str, recursive: bool) -> None:
        """Nothing to do: object storage has no folders, and our local storage makes them when it writes."""

    def delete_dir(self, path: str) -> None:
        self.delete_dir_contents(path)

    def delete_dir_contents(self, path: str, missing_dir_ok: bool = False) -> None:
        storage = open_storage(self.uri)
        for name in list(self._below(path.strip("/"))):
            storage.delete(name)

    def delete_root_dir_contents(self) -> None:
        raise PermissionError(f"refusing to delete everything below {self.uri}")

    def delete_file(self, path: str) -> None:
        open_storage(self.uri).delete(path.strip("/"))

    def move(self, src: str, dest: str) -> None:
        self.copy_file(src, dest)
        self.delete_file(src)

    def copy_file(self, src: str, dest: str) -> None:
        storage = open_storage(self.uri)
        storage.write(dest.strip("/"), storage.read(src.strip("/")))

    def open_input_stream(self, path: str) -> pa.NativeFile:
        return self.open_input_file(path)

    def open_input_file(self, path: str) -> pa.NativeFile:
        try:
            return pa.PythonFile(io.BytesIO(open_storage(self.uri).read(path.strip("/"))), mode="r")
        except NotFoundError as error:
            raise FileNotFoundError(str(error)) from error

    def open_output_stream(self, path: str, metadata: Any) -> pa.NativeFile:
        return pa.PythonFile(_Upload(self.uri, path.strip("/")), mode="w")

    def open_append_stream(self, path: str, metadata: Any) -> pa.NativeFile:
        raise io.UnsupportedOperation("object storage cannot append")


def ray_file_system(uri: str) -> pyarrow.fs.PyFileSystem:
    """File system for ``ray.train.RunConfig(storage_filesystem=...)``; paths are relative to ``uri``."""
    return pyarrow.fs.PyFileSystem(StorageHandler(uri))
