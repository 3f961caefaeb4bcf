"""S3 (boto3) and local files behind one small interface.

storage = open_storage("s3://bucket/prefix")      # or file:///folder
storage.write("a/b.json", b"{}")
storage.read_range("train/shard-000000.tar", offset=512, length=2048)
"""

from __future__ import annotations

from pipeline.errors import ConfigError
from pipeline.storage.base import Storage
from pipeline.storage.local import LocalStorage
from pipeline.storage.s3 import S3Storage

__all__ = ["LocalStorage", "S3Storage", "Storage", "join", "open_storage"]


def open_storage(uri: str) -> Storage:
    """Return the storage rooted at ``uri``. Opens no connection yet.

    Raises:
        ConfigError: ``uri`` is neither ``s3://BUCKET[/PREFIX]`` nor ``file:///FOLDER``.
    """
    scheme, _, rest = uri.partition("://")
    if scheme == "s3":
        bucket, _, prefix = rest.partition("/")
        if bucket:
            return S3Storage(bucket, prefix.strip("/"))
    elif scheme == "file" and rest.startswith("/") and ".." not in rest.split("/"):
        return LocalStorage(rest)
    raise ConfigError("uri", uri, "give s3://BUCKET/PREFIX or file:///ABSOLUTE/FOLDER")


def join(uri: str, *parts: str) -> str:
    """Join path parts to a storage URI with single slashes."""
    return "/".join([uri.rstrip("/"), *(part.strip("/") for part in parts)])
