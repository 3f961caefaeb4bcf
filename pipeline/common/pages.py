"""The pages that this project writes: the environment of their templates, and one style for all, light and dark."""

from __future__ import annotations

from pathlib import Path

import jinja2

from pipeline.common.printable import printable


def page_environment(folder: Path) -> jinja2.Environment:
    """Of the templates in a folder. Text is escaped and printable, markup that is marked as safe stays as it is;
    ``style`` is the style sheet, ``number`` puts commas between thousands.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder), autoescape=True, trim_blocks=True, lstrip_blocks=True, finalize=_shown
    )
    environment.filters["number"] = lambda n: f"{n:,}"
    environment.globals["style"] = Path(__file__).with_name("page.css").read_text()
    return environment


def _shown(value: object) -> object:
    return printable(value) if type(value) is str else value
