"""The formats tar and zip: their members, and the bytes of one zip member. Names in them never become paths on disk."""

from __future__ import annotations

import bz2
import dataclasses
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import BinaryIO

from pipeline.errors import RejectedSource
from preprocessing.sources.base import escapes, hidden
from preprocessing.sources.catalogue import ArchiveMember
from preprocessing.sources.limits import check_ratio

DAMAGE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    zlib.error,
    EOFError,
    NotImplementedError,
    struct.error,
)
"""What a damaged archive raises."""

_CHUNK_BYTES = 4 << 20
_MAX_HEADER_BYTES = 16 << 20  # names and attributes of one member; a hostile header could ask for any amount
_LOCAL_HEADER = struct.Struct("<4s5H3I2H")
_ENCRYPTED, _UTF8 = 0x1, 0x800
_LINK = "unsafe_path: a link inside an archive, which is not followed"
_ODD = "unsafe_path: a device or pipe inside an archive"


def chunks(file: BinaryIO, size: int) -> Iterator[bytes]:
    """``size`` bytes from the current position, in chunks; fewer if the file ends."""
    while size > 0 and (data := file.read(min(_CHUNK_BYTES, size))):
        size -= len(data)
        yield data


def _plain(name: str) -> str:
    """The path to which a member would be unpacked; a name that escapes stays as it is."""
    return name if escapes(name) else PurePosixPath(name).as_posix()


class _Headers:
    """A file for tarfile to read headers from: data is skipped by seeking or, in a stream, by reading; the size of a
    header is limited.
    """

    def __init__(self, file: BinaryIO, seekable: bool) -> None:
        self._file, self._seekable, self._position, self.last = file, seekable, file.tell(), b""

    def read(self, size: int) -> bytes:
        if size > _MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {size} bytes")
        self.last = self._file.read(size)
        self._position += len(self.last)
        return self.last

    def seek(self, position: int) -> None:
        if self._seekable:
            self._position = self._file.seek(position)
        else:
            self._position += sum(map(len, chunks(self._file, position - self._position)))

    def tell(self) -> int:
        return self._position


def tar_members(file: BinaryIO, *, seekable: bool = True, packed: Callable[[], int] = int) -> Iterator[ArchiveMember]:
    """Files in a tar; links and devices come with the reason why they are not read.

    Args:
        packed: of a compressed stream, its bytes that were read so far; members then come with theirs.

    Raises:
        tarfile.TarError: it is damaged, or ends early.
    """
    headers = _Headers(file, seekable)
    last: ArchiveMember | None = None
    start = 0
    with tarfile.TarFile(fileobj=headers, mode="r", errors="surrogateescape") as tar:  # type: ignore[arg-type]
        while (info := tar.next()) is not None:
            tar.members = []  # it would otherwise keep them all
            if last is not None:  # its data has been read by now
                yield dataclasses.replace(last, packed_size=packed() - start)
                last = None
            name = _plain(info.name)
            if info.isdir() or (hidden(name) and not escapes(name)):
                continue
            problem = ""
            if escapes(name):
                problem = "unsafe_path: a name that leaves the archive's folder"
            elif info.issym() or info.islnk():
                problem = _LINK
            elif info.issparse():
                problem = "unreadable: a sparse file inside a tar"
            elif not info.isreg():
                problem = _ODD
            last, start = ArchiveMember(name=name, size=info.size, offset=info.offset_data, problem=problem), packed()
        if last is not None:
            yield dataclasses.replace(last, packed_size=packed() - start)
    if len(headers.last) != tarfile.BLOCKSIZE or headers.last.count(0) != tarfile.BLOCKSIZE:
        raise tarfile.ReadError(f"no end mark: it ends or is damaged at byte {tar.offset}")


def zip_members(file: BinaryIO) -> Iterator[ArchiveMember]:
    """Files in a zip, from its directory; links, encrypted members and unknown compressions come with the reason why
    they are not read.

    Raises:
        zipfile.BadZipFile: it is damaged.
    """
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            name = _plain(_zip_name(info))
            if info.is_dir() or (hidden(name) and not escapes(name)):
                continue
            mode, problem = info.external_attr >> 16, ""
            if escapes(name):
                problem = "unsafe_path: a name that leaves the archive's folder"
            elif stat.S_ISLNK(mode):
                problem = _LINK
            elif stat.S_IFMT(mode) not in (0, stat.S_IFREG):
                problem = _ODD
            elif info.flag_bits & _ENCRYPTED:
                problem = "unreadable: encrypted inside a zip"
            elif info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2):
                problem = (
                    f"unreadable: packed with method {info.compress_type} inside a zip; stored, deflate and bzip2 are"
                    " read"
                )
            yield ArchiveMember(
                name=name,
                size=info.file_size,
                offset=info.header_offset,
                packed_size=info.compress_size,
                method=info.compress_type,
                crc32=info.CRC,
                problem=problem,
            )


def _zip_name(info: zipfile.ZipInfo) -> str:
    """By the specification, names without the UTF-8 flag are code page 437; many programs write UTF-8 all the same."""
    if info.flag_bits & _UTF8 or info.filename.isascii():
        return info.filename
    try:
        return info.filename.encode("cp437").decode("utf-8")
    except UnicodeError:
        return info.filename


def unzip(file: BinaryIO, member: ArchiveMember, take: Callable[[bytes], object]) -> int:
    """Give ``take`` the unpacked bytes of a member; returns how many there were, never more than the directory says.

    Raises:
        RejectedSource: ``unreadable``: the member is damaged; ``too_large``: it unpacks to far more than it takes.
    """
    file.seek(member.offset)
    header = file.read(_LOCAL_HEADER.size)
    if len(header) != _LOCAL_HEADER.size or header[:4] != b"PK\x03\x04":
        raise RejectedSource("unreadable", "damaged inside its zip: no header where the directory says")
    *_, name_bytes, extra_bytes = _LOCAL_HEADER.unpack(header)
    file.seek(name_bytes + extra_bytes, 1)
    done = crc32 = 0
    for data, packed_bytes in _unpacked(file, member):
        done += len(data)
        check_ratio(done, packed_bytes)
        if done > member.size:
            raise RejectedSource(
                "unreadable", f"damaged inside its zip: more than the {member.size} bytes of the directory"
            )
        crc32 = zlib.crc32(data, crc32)
        take(data)
    if done == member.size and crc32 != member.crc32:
        raise RejectedSource("unreadable", "damaged inside its zip: its checksum differs")
    return done


def _unpacked(file: BinaryIO, member: ArchiveMember) -> Iterator[tuple[bytes, int]]:
    """Unpacked bytes piece by piece, each with the number of packed ones that were used up to then."""
    packed, used = chunks(file, member.packed_size), 0
    if member.method == zipfile.ZIP_STORED:
        for data in packed:
            used += len(data)
            yield data, used
        return
    unpacker = bz2.BZ2Decompressor() if member.method == zipfile.ZIP_BZIP2 else zlib.decompressobj(-zlib.MAX_WBITS)
    left = b""
    while not unpacker.eof:
        # Chunks of bounded length: a kilobyte may unpack to a megabyte.
        if not left and getattr(unpacker, "needs_input", True):
            left = next(packed, b"")
            if not left:
                return  # it ends early; the caller sees that by its length
            used += len(left)
        try:
            data = unpacker.decompress(left, _CHUNK_BYTES)
        except (zlib.error, OSError) as error:
            raise RejectedSource("unreadable", f"damaged inside its zip: {error}") from error
        left = getattr(unpacker, "unconsumed_tail", b"")
        yield data, used - len(left)
