"""Markdown out of names and numbers that come from outside."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pipeline.common.printable import printable

_SPACE = "&emsp;"
_MARKS = re.compile(r"([\\`*_\[\]<>|#~])")


def plain(text: object) -> str:
    """Text that Markdown shows as it is, on one line: a name can neither end a table nor begin a link."""
    return _MARKS.sub(r"\\\1", printable(text))


def code(text: object) -> str:
    """Text in the type of code, such as a path or a command."""
    return f"`{printable(text).replace('`', chr(39)).replace('|', '/')}`"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table; cells are Markdown already. MLflow shows its cells without a space between them, so each but
    the last ends in one that pages keep.
    """
    lines = [f"| {(_SPACE + ' | ').join(cells)} |" for cells in (heads, *rows)]
    return [lines[0], f"|{' --- |' * len(heads)}", *lines[1:]]


def within(lines: Sequence[str], most: int) -> str:
    """The lines as one text of at most ``most`` characters: whole lines, and a note where some had no room."""
    note = "\n\n(cut: more than this place takes)"
    text = ""
    for line in lines:
        longer = f"{text}{line}\n"
        if len(longer) > most - len(note):
            return text.rstrip() + note
        text = longer
    return text.rstrip() + "\n"
