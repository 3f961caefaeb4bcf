"""Texts in Markdown for the pages of runs, registered models and versions: facts alone, from what is stored."""
