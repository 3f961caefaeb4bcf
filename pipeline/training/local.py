"""A reporter for runs in one process: checkpoints in a storage folder, newest last."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from pipeline.storage import Storage


class LocalReporter:
    """Keeps the newest checkpoint of a run below ``storage``. One rank only.

    A checkpoint's files are written first; then the name in ``latest`` is updated, and older files are deleted last.
    """

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.metrics: list[dict[str, float]] = []

    @contextlib.contextmanager
    def latest(self) -> Iterator[Path | None]:
        """The newest checkpoint as a local folder, or None."""
        if not self.storage.exists("latest"):
            yield None
            return
        name = self.storage.read("latest").decode()
        with tempfile.TemporaryDirectory() as folder:
            for path in self.storage.list(f"{name}/"):
                (Path(folder) / Path(path).name).write_bytes(self.storage.read(path))
            yield Path(folder)

    def save(self, metrics: dict[str, float], write: Callable[[Path], None]) -> None:
        """Store what ``write`` puts into a folder as the newest checkpoint."""
        old = set(self.storage.list("checkpoint_"))
        newest = max((int(path.split("/")[0].removeprefix("checkpoint_")) for path in old), default=-1)
        name = f"checkpoint_{newest + 1:06d}"
        self.metrics.append(dict(metrics))
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder))
            for path in sorted(Path(folder).iterdir()):
                self.storage.write_file(f"{name}/{path.name}", path)
        self.storage.write("latest", name.encode())
        for path in old:
            self.storage.delete(path)
