"""Names from outside reach terminal and log on one line, with nothing in them that either would obey."""

from __future__ import annotations

import io
import logging
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table

from pipeline.common.cli import PrintableConsole
from pipeline.common.printable import PrintableFormatter, printable, printable_lines

EVIL = "a\n12:00:00 ERROR forged\r\x1b[2J\x1b]0;title\x07\x9b31m\u202egnp.exe\u2028b\udce9\x00 [bold]x[/bold] :bomb:"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("walk & jump", "walk & jump"),
        ("naïve café 走る прыжок مشي", "naïve café 走る прыжок مشي"),
        ("👩‍👩‍👧 family", "👩‍👩‍👧 family"),  # joined by characters that are not seen, as the script asks for
        ("a\nb\tc", "a\\nb\\tc"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("\x9b31m", "\\x9b31m"),
        ("abc\u202egpj.exe", "abc\\u202egpj.exe"),
        ("caf\udce9.mp4", "caf\\udce9.mp4"),
        ("a\u2028b", "a\\u2028b"),
    ],
)
def test_what_is_unsafe_is_shown_as_python_writes_it(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(st.text(st.characters()))
def test_any_text_becomes_one_line_that_can_be_encoded(text: str) -> None:
    shown = printable(text)
    shown.encode()
    assert len(shown.splitlines()) <= 1
    assert not any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in shown)
    assert not any(
        unicodedata.bidirectional(c) in ("LRO", "RLO", "LRE", "RLE", "PDF", "LRI", "RLI", "FSI", "PDI") for c in shown
    )
    assert printable(shown) == shown
    assert printable_lines(text).count("\n") == text.count("\n")


def test_a_console_prints_strings_as_they_are() -> None:
    out = io.StringIO()
    console = PrintableConsole(file=out, width=300)
    console.print(EVIL)
    table = Table("name", title=EVIL, box=None)
    table.add_row(EVIL)
    console.print(table)
    lines = out.getvalue().splitlines()
    assert [line.strip() for line in lines] == [printable(EVIL), printable(EVIL), "name", printable(EVIL)]
    console.print("one", "two", sep="\n")
    assert out.getvalue().endswith("one\ntwo\n")


def test_a_log_has_one_line_for_a_message() -> None:
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(PrintableFormatter("%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S"))
    log = logging.Logger("test")
    log.addHandler(handler)
    log.warning("%s is damaged", EVIL)
    assert out.getvalue().count("\n") == 1
    assert "\x1b" not in out.getvalue()
    assert printable(EVIL) in out.getvalue()
    try:
        raise ValueError(EVIL)
    except ValueError:
        log.exception("it failed")
    _, first, *rest = out.getvalue().splitlines()
    assert first.endswith("ERROR it failed")
    assert all(line.startswith("    ") for line in rest)
    assert "\x1b" not in out.getvalue()
