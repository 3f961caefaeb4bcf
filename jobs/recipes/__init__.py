"""Recipes: named trainings, each a function that returns a whole TrainConfig.

Recipes for the demo are in ``demo``, those for small data sets in ``small``; those of every row of the papers' tables
are generated in ``crn_parts``, ``crn_whole`` and ``mrst`` and named FAMILY_TABLE_DATA_VARIANT, such as
crn_t1_ucf_bni_rib_flow; ``mrst_twin`` has the pre-training on pictures. ``python -m jobs.train --list`` shows all of
them with the papers' numbers.
"""

from jobs.recipes import crn, crn_parts, crn_whole, demo, mrst, mrst_twin, small  # imported for their registrations
from jobs.recipes.registry import (
    ENSEMBLES,
    RECIPES,
    Ensemble,
    Family,
    PrintedNumber,
    Recipe,
    default_views,
    find_recipe,
    nearest,
    recipe,
)

__all__ = [
    "ENSEMBLES",
    "RECIPES",
    "Ensemble",
    "Family",
    "PrintedNumber",
    "Recipe",
    "crn",
    "crn_parts",
    "crn_whole",
    "default_views",
    "demo",
    "find_recipe",
    "mrst",
    "mrst_twin",
    "nearest",
    "recipe",
    "small",
]
