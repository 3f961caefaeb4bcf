"""The pictures of README.md and the guides: each is drawn, measured or photographed by code, none by hand."""
