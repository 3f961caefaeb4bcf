"""``build_model``: the model that a config describes."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from pipeline.config.base import require
from pipeline.config.model import CRNConfig, ModelConfig
from pipeline.models.backbones.public_weights import flow_scale, load_backbone
from pipeline.models.crn.model import CRN
from pipeline.models.interface import ActionModel
from pipeline.models.mrst.c3d import C3DNet
from pipeline.models.mrst.inflate import load_2d_weights
from pipeline.models.mrst.model import MRSTNet


def build_model(
    config: ModelConfig,
    *,
    num_classes: int,
    crop: int,
    weights: Mapping[str, Tensor] | None = None,
    frozen_flow_std: float = 0.0,
) -> ActionModel:
    """Build a model with random weights on torch's default device (``with torch.device("meta")`` works).

    Args:
        config: CRNConfig or MRSTConfig.
        num_classes: N, at least 1; the number of classes in the data set's manifest.
        crop: side of the square input in pixels. It determines the input size of MRST-Net's LSTM; CRN averages over
            its maps and accepts any size that its backbone accepts.
        weights: for the start of a training run, the state dict of the file that ``config.pretrained`` names, as
            returned by ``public_weights.parse_weights``: loaded into CRN's backbones, or into MRST-Net from its 2D
            twin. On the meta device it is fully checked but not copied. None: random weights, to be trained from
            scratch or replaced by a checkpoint.
        frozen_flow_std: with ``weights``, clip.flow_std if the backbones' batch normalisation is frozen, by
            model.backbone_norm or as a whole: the first kernel that sees flow is then scaled
            (``public_weights.flow_scale``). 0: it learns, and adapts.

    Raises:
        ConfigError: ``num_classes`` or ``crop`` is not possible; ``weights`` do not fit the model, or are given though
            the config names no file.
    """
    require(num_classes >= 1, "num_classes", num_classes, "give the number of classes of the data set")
    require(crop >= 1, "clip.crop", crop, "give the side of the crop in pixels")
    if weights is not None:
        require(
            bool(config.pretrained), "model.pretrained", config.pretrained, "give the file that the weights come from"
        )
    if isinstance(config, CRNConfig):
        model = CRN(config, num_classes)
        least = max(model.backbone(m).min_side for m in model.modalities)
        require(
            crop >= least,
            "clip.crop",
            crop,
            f"{config.backbone} with {config.backbone_stages} stages needs at least {least} pixels",
        )
        if weights is not None:
            fix = "public weights with frozen normalisation need the scale of flow: pass clip.flow_std"
            known = frozen_flow_std > 0 or config.backbone_norm != "frozen" or "flow" not in config.modalities
            require(known, "frozen_flow_std", frozen_flow_std, fix)
            for m in model.modalities:
                scaled = m == "flow" and frozen_flow_std > 0
                load_backbone(
                    model.backbone(m),
                    weights,
                    source=config.pretrained,
                    cross_modality=m != "rgb",
                    scale=flow_scale(config.backbone, frozen_flow_std) if scaled else 1.0,
                )
        return model
    if config.layout == "c3d":
        require(crop >= 16, "clip.crop", crop, "the c3d layout halves maps four times: give at least 16 pixels")
        return C3DNet(config, num_classes, crop)
    network = MRSTNet(config, num_classes, crop)
    if weights is not None:
        load_2d_weights(network, weights, start=config.start, source=config.pretrained)
    return network
