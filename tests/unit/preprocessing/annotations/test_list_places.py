"""Where a list is looked for, by how its address is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from preprocessing.annotations import lists
from preprocessing.sources import open_sources


@pytest.mark.parametrize(
    ("annotations", "folder"),
    [
        ("list.csv", "."),
        ("a/list.csv", "a"),
        ("/list.csv", "/"),
        ("/a/list.txt", "/a"),
        ("file:///list.csv", "file:///"),
        ("file:///a/list.csv", "file:///a"),
        ("s3://bucket/list.csv", "s3://bucket"),
    ],
)
def test_a_list_is_looked_for_in_the_folder_that_its_address_names(
    annotations: str, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def opened(uri: str, **_: Any) -> Any:
        asked.append(uri)
        return open_sources(str(tmp_path))

    monkeypatch.setattr(lists, "open_sources", opened)
    lists.open_lists(annotations, open_sources(str(tmp_path)))
    assert asked == [folder]
