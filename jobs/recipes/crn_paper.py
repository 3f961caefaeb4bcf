"""What the CRN paper (Sun et al.) states about training, our choices for what it leaves open, and the numbers that its
Tables 1 to 4 print.
"""

from __future__ import annotations

from jobs.recipes.registry import Family

FAMILY = Family(
    source="Sun et al., Coupled Recurrent Network, section 5.1",
    stated=(
        "two ConvLSTM layers per branch, 3x3, 512 maps; RAB is one 1x1 convolution; T = 10 sequential frames",
        "SGD, momentum 0.9, weight decay 5e-4; initial learning rate 1e-2, backbones 1e-3, end to end",
        "strategy c: the last step and one random earlier step are supervised (compared in Table 2)",
        "test: mean probabilities of 4 regularly spaced clips; the two branches (S-Net, T-Net) are reported separately",
    ),
    choices=(
        (
            "frames: stride 1 ('ten sequential frames'); every motion step stacks 5 frames, 10 (flow) or 15 (diff)"
            " channels, as in TSN, whose baselines the tables quote"
        ),
        "batch of 32 clips: 8 ranks of 4; on fewer GPUs set data.micro-batch for the same mathematics",
        (
            "60 epochs on UCF-101 (18 k steps, as long as TSN's flow nets) and HMDB-51, 10 on Moments in Time (a"
            " quarter of a million steps)"
        ),
        "decay: half a cosine down to 1 %; the paper only says 'initial learning rate'",
        "dropout 0.5 before the classifiers: small data sets, large heads; TSN uses 0.2 (BN-Inception) to 0.8",
        "gradient norm clipped at 20, as in TSN; recurrent networks need a limit",
        "crops: TSN's corner crops of 1, 7/8, 3/4 and 0.66 of the short side, and flips; centre crop for testing",
        (
            "input 224 (short side 256) in Caffe's BGR for BN-Inception, 299 (short side 341) with mean and std 0.5 for"
            " Inception v3, as their public weights were trained"
        ),
        "optical flow: TV-L1 clipped to +-20 pixels, as stored; divided by 5, so that typical motion is about 1",
        (
            "batch normalisation: TSN's partial BN, only the first layer of each backbone is trained; this needs the"
            " public weights (--model.pretrained FILE): without them use --model.backbone-norm train"
        ),
    ),
    # As in tsn-pytorch's get_optim_policies and the commands of its README; the CRN paper states none of it.
    options=(
        (
            "TSN",
            "--optim.first-conv-multiplier 5",
            "the first convolution of a flow net starts from weights for pictures and has the most to learn; so in TSN"
            " for flow, not for RGB differences, and gives its bias twice as much",
        ),
        (
            "TSN",
            "--optim.weight-decay-on weights",
            "biases and the scales and shifts of BN do not overfit, and L2 pulls them to values that mean nothing",
        ),
        (
            "TSN",
            "--optim.epochs 340 --optim.schedule step --optim.decay-epochs 190 300",
            "flow on UCF-101: 340 passes over the data, against our 60; TSN takes 3 snippets of a video at batch 128 in"
            " each, where one pass here takes 10 frames of each video at batch 32. RGB: 80 epochs, decay at 30 and 60;"
            " RGB differences: 180, at 80 and 160",
        ),
    ),
)

# Data and backbone -> RIB -> S-Net, T-Net with flow; S-Net, T-Net with differences.
TABLE1: dict[tuple[str, str], dict[str, tuple[float, float, float, float]]] = {
    ("ucf", "bni"): {
        "none": (88.3, 90.6, 86.7, 87.9),
        "srib": (90.4, 92.3, 88.7, 89.3),
        "rib": (91.4, 93.0, 89.5, 90.7),
    },
    ("ucf", "v3"): {
        "none": (91.0, 92.3, 88.9, 90.2),
        "srib": (91.8, 92.9, 90.4, 90.8),
        "rib": (93.0, 93.5, 91.2, 91.6),
    },
    ("hmdb", "bni"): {
        "none": (54.7, 61.8, 52.7, 54.9),
        "srib": (58.6, 63.5, 55.4, 57.6),
        "rib": (60.3, 67.5, 55.9, 59.0),
    },
    ("hmdb", "v3"): {
        "none": (61.5, 64.1, 57.1, 58.2),
        "srib": (63.1, 65.8, 59.0, 59.9),
        "rib": (64.4, 67.7, 60.9, 60.9),
    },
}
# Strategy -> S-Nets, T-Nets (flow), T-Nets (differences).
TABLE2 = {"a": (55.5, 62.2, 56.4), "b": (47.3, 57.2, 49.7), "c": (58.1, 67.5, 59.0), "d": (56.9, 66.9, 58.6)}
# Data and backbone -> N-CRN, CRN, CRN + N-CRN, each as S-Nets, T-Nets (flow), T-Nets (differences).
TABLE3 = {
    ("ucf", "bni"): ((84.7, 85.6, 86.2), (90.4, 91.8, 89.5), (91.0, 92.2, 89.7)),
    ("hmdb", "bni"): ((51.4, 56.9, 53.2), (58.1, 67.5, 59.0), (59.0, 68.3, 60.7)),
    ("hmdb", "v3"): ((52.4, 57.9, 54.9), (62.7, 67.7, 60.9), (63.2, 69.2, 61.9)),
}
# Data and backbone -> late, early, N-CRN, CRN, CRN + N-CRN: means of three splits.
TABLE4 = {
    ("ucf", "bni"): (92.4, 92.7, 92.2, 93.5, 94.6),
    ("hmdb", "bni"): (66.5, 66.3, 65.7, 67.8, 69.4),
    ("ucf", "v3"): (92.5, 92.7, 93.1, 94.1, 94.9),
    ("hmdb", "v3"): (67.5, 67.1, 66.3, 68.2, 70.6),
}
