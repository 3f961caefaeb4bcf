"""``python -m jobs.ablations``: the papers' ablations with tiny networks, compared with error bars."""
