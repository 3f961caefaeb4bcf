"""Class folders of small pictures in all kinds of files, as ImageNet has them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from PIL import Image

CLASSES = ("n01440764", "n01443537", "n02012849")
KINDS = (("JPEG", "JPEG"), ("jpg", "JPEG"), ("png", "PNG"), ("webp", "WEBP"))


def picture(label: int, number: int, height: int = 40, width: int = 56) -> np.ndarray:
    """A smooth texture whose colour says its class; uint8 RGB (height, width, 3)."""
    rng = np.random.default_rng(1000 * label + number)
    texture = cv2.GaussianBlur(rng.uniform(-90, 90, (height, width, 3)), (0, 0), 4) * 2
    return (texture + np.array([200, 120, 50])[[label, label - 1, label - 2]]).clip(0, 255).astype(np.uint8)


def draw_pictures(root: Path, splits: dict[str, int], *, short_side: int = 40) -> Path:
    """``root/SPLIT/CLASS/CLASS_N.ENDING``, so many of each class in each split; returns ``root``."""
    for split, count in splits.items():
        for label, name in enumerate(CLASSES):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                ending, kind = KINDS[number % len(KINDS)]
                seed = number + 100 * len(split)
                drawn = Image.fromarray(picture(label, seed, short_side, short_side + 16 * (number % 2)))
                drawn.save(folder / f"{name}_{number}.{ending}", kind, quality=95)
    return root
