"""Files that lie beside videos and are none: subtitles, descriptions, pictures, sound, half downloads."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable

_KINDS = {
    "text, tables and descriptions": "txt md rst csv tsv json jsonl xml nfo yaml yml ini cfg log html htm pdf doc docx"
    " xls xlsx rtf url lnk",
    "subtitles and playlists": "srt vtt ass ssa sbv ttml smi lrc m3u m3u8 pls mpd sdp",
    # .gif is not here, because it may be a video.
    "pictures": "jpg jpeg jfif png webp bmp tif tiff heic heif avif svg ico psd thm aae xmp",
    "sound": "mp3 wav m4a aac flac opus wma aiff mid",
    "downloads that have not ended, and what downloaders keep": "part ytdl crdownload download aria2 tmp temp torrent",
    "checksums and signatures": "md5 sha1 sha256 sha512 sfv asc sig",
    "archives that are not looked into, code and data": "rar 7z gz bz2 xz zst py sh bat exe pkl npy npz pt h5 hdf5"
    " parquet mat db sqlite lock bak",
}
_ENDINGS = frozenset(f".{ending}" for endings in _KINDS.values() for ending in endings.split())
_NAMES = frozenset(
    (
        "readme",
        "license",
        "licence",
        "copying",
        "authors",
        "changelog",
        "checksums",
        "md5sums",
        "sha1sums",
        "sha256sums",
    )
)
_FRAGMENT = re.compile(r"\.part-frag\d+\Z")  # of a download in pieces
_MOST_ENDINGS = 8  # in a message


def side_ending(path: str) -> str:
    """What marks a file as no video: its ending, or its name where it has none; empty for what may be a video.

    A file with an ending that is not known, or with none, may be one: only opening it tells.
    """
    name = path.rpartition("/")[2].lower()
    stem, dot, last = name.rpartition(".")
    if not dot:
        return name if name in _NAMES else ""
    if _FRAGMENT.search(name):
        return ".part"
    return f".{last}" if stem and f".{last}" in _ENDINGS else ""


def described(paths: Iterable[str], ending_of: Callable[[str], str] = side_ending) -> str:
    """The endings of side files with their numbers, the most frequent first: ``5 .json, 3 .jpg``."""
    counts = sorted(Counter(map(ending_of, paths)).items(), key=lambda item: (-item[1], item[0]))
    shown = ", ".join(f"{number} {ending}" for ending, number in counts[:_MOST_ENDINGS])
    return shown + (f" and {sum(n for _, n in counts[_MOST_ENDINGS:])} others" if len(counts) > _MOST_ENDINGS else "")
