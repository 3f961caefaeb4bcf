"""Everything about Ray that several commands share: connecting, submitting, environment of workers, errors."""
