"""Recipes: named trainings, each a function that returns a whole TrainConfig.

Demos and small sets are in ``demo``; every row of the papers' tables is generated in ``crn`` and ``mrst``. Names of
rows are FAMILY_TABLE_DATA_VARIANT, such as crn_t1_ucf_bni_rib_flow. ``python -m jobs.train --list`` shows all with the
papers' numbers.
"""

from jobs.recipes import crn, demo, mrst  # registering is what they are imported for
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
    "default_views",
    "demo",
    "find_recipe",
    "mrst",
    "nearest",
    "recipe",
]
