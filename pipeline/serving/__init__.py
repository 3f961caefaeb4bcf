"""From a raw video to class probabilities: the predictor inside a registered model."""
