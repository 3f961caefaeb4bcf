"""Data sets of ours among videos: what ``jobs.preprocess`` stored is no input."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping

from pipeline.common.words import counted
from pipeline.errors import UserError
from pipeline.storage.lease import PREFIX

log = logging.getLogger(__name__)
NOTES = ".sources.json"
"""What ``jobs.preprocess`` writes into its target before the first shard."""

# A manifest.json alone is no sign: other programs write files of that name beside videos. A tar alone is none either,
# because it may be one of videos; whoever wrote a tar of ours has written the notes before.
_MARK = re.compile(
    rf"((?:.*/)?)(?:(?:train|val|test)/shard-\d{{6,}}\.(?:json|idx)|{re.escape(NOTES)}|{re.escape(PREFIX)}[^/]+\.json)",
    re.DOTALL,
)
_SHOWN = 5  # in a message


def marked_folder(path: str) -> str | None:
    """The folder (empty, or with a slash at its end) that ``path`` shows to be a data set, finished or not; else
    None.
    """
    found = _MARK.fullmatch(path)
    return found[1] if found else None


def below(path: str, folders: Iterable[str]) -> bool:
    """Whether ``path`` is in one of ``folders`` (with a slash at their ends), or is one of them."""
    return f"{path}/".startswith(tuple(folders))


def data_sets_in(uri: str, listing: Mapping[str, int], hidden: Iterable[str]) -> tuple[str, ...]:
    """The outermost folders below ``uri`` that are data sets, each with a slash at its end; said in the log.

    Args:
        hidden: folders that hidden files show to be data sets.

    Raises:
        UserError: ``uri`` itself is one.
    """
    found = {folder for path in listing if (folder := marked_folder(path)) is not None} | set(hidden)
    if "" in found:
        raise UserError(
            f"{uri} is itself a data set made by jobs.preprocess: give the folder of the videos as --source, or"
            " move the data set out of it"
        )
    kept: list[str] = []
    for folder in sorted(found):
        if not folder.startswith(tuple(kept)):
            kept.append(folder)
    if kept:
        more = f" and {len(kept) - _SHOWN} others" if len(kept) > _SHOWN else ""
        log.warning(
            "%s: left out %s made by jobs.preprocess, which %s no videos: %s%s",
            uri,
            counted(len(kept), "data set"),
            "is" if len(kept) == 1 else "are",
            ", ".join(f"{uri}/{folder.rstrip('/')}" for folder in kept[:_SHOWN]),
            more,
        )
    return tuple(kept)
