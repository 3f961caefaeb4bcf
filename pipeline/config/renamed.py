"""Fields that have been renamed: configs, run identities and command lines with the old names are still understood.

A run's identity keeps the OLD names for good: it is compared with what older code stored, and the default run id is a
hash of it, so the same command must resume the same run.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from typing import Any

log = logging.getLogger("jobs")

RENAMED = {"data.loader": "data.decoder"}
"""Old name to new name, dotted as on the command line; both are in the same section."""


def with_new_names(fields: dict[str, Any]) -> dict[str, Any]:
    """A stored config, a nested plain dict, with today's names; the argument is left alone."""
    return _renamed(fields, RENAMED)


def with_old_names(fields: dict[str, Any]) -> dict[str, Any]:
    """Inverse of ``with_new_names``."""
    return _renamed(fields, {new: old for old, new in RENAMED.items()})


def new_name(field: str) -> str:
    """Today's name of a dotted field."""
    return RENAMED.get(field, field)


def with_new_flags(args: Sequence[str]) -> list[str]:
    """A command line with today's names; each old one is replaced, with a warning."""
    flags = {f"--{old}": f"--{new}" for old, new in RENAMED.items()}
    replaced = []
    for arg in args:
        flag, equals, value = arg.partition("=")
        if flag in flags:
            log.warning("%s is now called %s; the old name still works", flag, flags[flag])
        replaced.append(flags.get(flag, flag) + equals + value)
    return replaced


def _renamed(fields: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    fields = copy.deepcopy(fields)
    for name, other in names.items():
        (section, before), (_, after) = name.split("."), other.split(".")
        found = fields.get(section)
        if isinstance(found, dict) and before in found:  # what is no section is refused by who reads the config
            found[after] = found.pop(before)
    return fields
