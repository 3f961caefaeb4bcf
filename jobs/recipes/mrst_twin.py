"""The 2D twin of MRST-Net on ImageNet-1k: the pre-training that the MRST paper (Wu et al.) names, no more."""

from __future__ import annotations

from jobs.recipes.registry import Family, Recipe, register
from pipeline.config.data import ClipConfig, DataConfig
from pipeline.config.model import MRSTConfig
from pipeline.config.optim import OptimConfig
from pipeline.config.run import RunConfig
from pipeline.config.train import TrainConfig

TWIN = Family(
    source="Wu et al., Mutually Reinforced Spatio-Temporal Convolutional Tube, Table 1 and section 4.3",
    stated=(
        '4.3, of Table 3: "our proposed MRST-T-Net (pre-trained on ImageNet-1k)"',
        '4.3: "fine-tuning MRST-T-Net (pre-trained on ImageNet-1k and Kinetics-400)"',
    ),
    choices=(
        (
            "the network: Table 1 without temporal convolutions, gates and LSTM, on one frame; all else keeps its name"
            " and shape, so that MRST-Net takes it over (pipeline/models/mrst/inflate.py)"
        ),
        (
            "the training, of which the paper says nothing, is the usual one of residual networks on ImageNet: SGD with"
            " momentum 0.9, learning rate 0.1 for a batch of 256, weight decay 1e-4, 90 epochs with half a cosine after"
            " a warm-up of 5"
        ),
        "crops of 8 to 100 % of a picture's area, 224 pixels, and flips; tests take the centre of short side 256",
        "no dropout, as usual for residual networks on ImageNet",
        "pixels are normalised as in the recipes on Kinetics-400, which start from its weights",
    ),
)


def paper_twin() -> TrainConfig:
    """The twin's training, on 8 ranks with a GPU each."""
    return TrainConfig(
        model=MRSTConfig(unit="2D", num_steps=1, dropout=0.0),
        clip=ClipConfig(num_frames=1, crop=224, resize=256, train_crop="area", min_area=0.08),
        data=DataConfig(batch_size=256),
        optim=OptimConfig(
            name="sgd",
            lr=0.1,
            backbone_lr=0.1,
            reference_batch=256,
            momentum=0.9,
            weight_decay=1e-4,
            epochs=90,
            warmup_epochs=5.0,
            schedule="cosine",
        ),
        run=RunConfig(num_workers=8, cpus_per_worker=8, use_gpu="yes"),
    )


register(
    Recipe(
        "mrst_imagenet_twin",
        "The 2D twin of MRST-Net (Table 1), one 224 x 224 picture, on ImageNet-1k; mrst_t3_k400 starts from its run.",
        paper_twin,
        data="ImageNet-1k, train/val",
        family=TWIN,
        notes=(
            "store the pictures with jobs.preprocess --format pictures --stored.modalities rgb",
            "then: python -m jobs.train mrst_t3_k400 --data.uri KINETICS --start-from RUN",
        ),
    )
)
