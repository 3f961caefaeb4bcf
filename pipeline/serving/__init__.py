"""Raw video to answer: what lies inside a registered model."""
