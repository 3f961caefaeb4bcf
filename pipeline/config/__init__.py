"""Every knob of the project and its rule. Defaults live here and nowhere else."""
