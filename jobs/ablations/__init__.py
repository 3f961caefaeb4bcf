"""``python -m jobs.ablations``: the papers' variants in tiny networks, compared with error bars."""
