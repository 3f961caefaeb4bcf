"""The style sheet of the pages that this project writes: light and dark, desktop and phone."""

from __future__ import annotations

from pathlib import Path


def page_style() -> str:
    """CSS, for a ``<style>`` element."""
    return Path(__file__).with_name("page.css").read_text()
