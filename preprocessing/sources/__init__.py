"""Where raw videos are: a folder, a bucket, and the archives in them, behind one interface.

    store = open_sources("s3://bucket/kinetics")        # or a folder, file:///FOLDER, or an archive in either
    with store.local("val/abseiling/0wR5jVB-WPk_000417_000427.mp4") as file: ...

Archives (.tar, .tar.gz, .tgz, .zip) look as if they were unpacked in place, but are never unpacked.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import ConfigError
from pipeline.storage import open_storage
from preprocessing.sources.archives import archive_kind
from preprocessing.sources.base import SourceStore
from preprocessing.sources.bucket import BucketStore
from preprocessing.sources.folder import FolderStore
from preprocessing.sources.packed import PackedStore

__all__ = ["BucketStore", "FolderStore", "PackedStore", "SourceStore", "open_sources"]


def open_sources(uri: str, *, field: str = "source", archives: bool = True, data_sets: bool = True) -> SourceStore:
    """The store at ``uri``: a folder's path, ``file:///FOLDER``, ``s3://BUCKET/PREFIX``, or an archive file in one of
    them.

    Checks that a local folder exists; nothing else is opened or listed yet.

    Args:
        field: what messages call ``uri``.
        archives: whether archives below a folder look unpacked; an archive that ``uri`` itself names always does.
        data_sets: whether data sets that ``jobs.preprocess`` made are listed like other files; if not, their folders
            are left out, which the log says.

    Raises:
        ConfigError: no such folder or archive, or an unknown scheme.
    """
    if uri.startswith("s3://"):
        folder, _, name = uri.rstrip("/").rpartition("/")
        if archive_kind(name) and folder != "s3:/":
            return PackedStore(BucketStore(open_storage(folder)), only=name)
        store = BucketStore(open_storage(uri), data_sets=data_sets)
        return PackedStore(store) if archives else store
    root = Path(uri.removeprefix("file://")).expanduser().absolute()
    if archive_kind(root.name) and root.is_file():
        return PackedStore(FolderStore(root.parent), only=root.name)
    if "://" in uri.removeprefix("file://") or not root.is_dir():
        raise ConfigError(
            field,
            uri,
            "is not a folder on this machine; give one, s3://BUCKET/PREFIX, or a .tar, .tar.gz or .zip in either",
        )
    store = FolderStore(root, data_sets=data_sets)
    return PackedStore(store) if archives else store
