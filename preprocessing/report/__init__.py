"""One HTML page about a stored data set."""
