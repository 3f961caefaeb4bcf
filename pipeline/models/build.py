"""From a model's config to the model."""

from __future__ import annotations

from pipeline.config.base import require
from pipeline.config.model import CRNConfig, ModelConfig
from pipeline.models.crn import CRN
from pipeline.models.interface import ActionModel
from pipeline.models.mrst import MRSTNet


def build_model(config: ModelConfig, *, num_classes: int, crop: int) -> ActionModel:
    """Build a model with fresh weights on torch's current default device (``with torch.device("meta")`` works).

    Args:
        config: CRNConfig or MRSTConfig.
        num_classes: N, at least 1; the number of classes in the data's manifest.
        crop: side of the square input in pixels. It sizes MRST-Net's LSTM; CRN averages over its maps and takes any size.

    Raises:
        ConfigError: ``num_classes`` or ``crop`` cannot work.
    """
    require(num_classes >= 1, "num_classes", num_classes, "give the number of classes of the data set")
    require(crop >= 1, "clip.crop", crop, "give the side of the crop in pixels")
    if isinstance(config, CRNConfig):
        return CRN(config, num_classes)
    return MRSTNet(config, num_classes, crop)
