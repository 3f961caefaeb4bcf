"""Names that come from outside, made safe to print: of files, classes, keys, runs, and what servers answer.

A name may hold what a terminal obeys (escape sequences), what forges a line of a log (newlines) and what shows it in
another order than it has (bidirectional overrides). Each such character is shown as Python writes it: ``\\x1b``,
``\\n``, ``\\u202e``. Letters of all scripts stay.
"""

from __future__ import annotations

import logging
import re
from types import TracebackType

# Controls of ASCII and Latin-1; marks, overrides and isolates of direction; separators of lines and paragraphs;
# characters that are not seen; halves of surrogate pairs, which no encoding can write.
_UNSAFE = (
    "\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e007f"
)
_CHARACTERS = re.compile(f"[{_UNSAFE}]")
_BUT_NEWLINES = re.compile(f"(?!\n)[{_UNSAFE}]")


def printable(text: object) -> str:
    """``text`` on one line, without a character that a terminal or a reader of a log could be deceived by."""
    return _CHARACTERS.sub(_escaped, str(text))


def printable_lines(text: str) -> str:
    """As ``printable``, for text whose line breaks are meant."""
    return _BUT_NEWLINES.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    return repr(found[0])[1:-1]


class PrintableFormatter(logging.Formatter):
    """Every message is one line; tracebacks keep their lines, further to the right than any message begins."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = printable(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: tuple[type[BaseException], BaseException, TracebackType | None] | tuple) -> str:
        return "    " + printable_lines(super().formatException(ei)).replace("\n", "\n    ")

    def formatStack(self, stack_info: str) -> str:
        return "    " + printable_lines(super().formatStack(stack_info)).replace("\n", "\n    ")
