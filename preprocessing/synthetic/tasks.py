"""Scenes of several objects, in which neither what is there nor what moves tells the class, only which moves how."""

from __future__ import annotations

import numpy as np

from preprocessing.synthetic.scene import Object, Scene, camera_shake, triangle_wave
from preprocessing.synthetic.textures import Look

BINDING_TEXTURES = ("dots", "checks")
PART_CLASSES = ("dots_rise", "dots_sink", "checks_rise", "checks_sink")
BINDING_CLASSES = ("dots_rise_checks_sink", "dots_sink_checks_rise")
DISTRACTOR_TEXTURES = ("stripes", "dots", "rings")
DISTRACTOR_MOTIONS = ("sway", "bob", "swell")

_SWELL = 0.3  # natural log of the largest size over the middle size


def draw_binding(rng: np.random.Generator, label: int, num_frames: int) -> Scene:
    """Two outlines side by side, dots inside one and checks inside the other; one texture drifts up, the other down.

    Label 0: dots drift up; label 1: dots drift down. Which texture is left is a coin toss in both, and so is which side
    drifts up. One RGB frame shows what stands where, and motion alone what moves where, with the same distribution in
    both classes: only the two together, at the same place, tell the class. Several RGB frames together do show the
    drift: a network that measured motion between them could do without flow. Textures are hues of equal luma, drawn on
    a grain of grey that drifts with them, so that optical flow, which is computed from luma, cannot tell them apart.
    Outlines stand still, so that no frame shows how far a texture has come.
    """
    first = BINDING_TEXTURES[int(rng.integers(2))]
    second = next(texture for texture in BINDING_TEXTURES if texture != first)
    drifts = [(texture, (texture == "dots") == (label == 0)) for texture in (first, second)]
    return _drifting(rng, dict(zip((0.28, 0.72), drifts, strict=True)), num_frames)


def draw_part(rng: np.random.Generator, label: int, num_frames: int) -> Scene:
    """One of the two outlines of ``draw_binding``, left or right, with a class of its own: what a stream can learn of
    it alone. Labels: dots up, dots down, checks up, checks down.
    """
    texture, up = BINDING_TEXTURES[label // 2], label % 2 == 0
    return _drifting(rng, {(0.28, 0.72)[int(rng.integers(2))]: (texture, up)}, num_frames)


def _drifting(rng: np.random.Generator, drifts: dict[float, tuple[str, bool]], num_frames: int) -> Scene:
    """Outlines whose textures drift, by the place of their middles (share of the width): texture, and whether up."""
    side = 2 * int(rng.integers(56, 73))  # 112..144
    unit = side / 64
    t = np.arange(num_frames)
    objects = []
    for x, (texture, up) in drifts.items():
        look, radius = Look.draw_grained(rng, texture, side // 2), rng.uniform(0.15, 0.17) * side
        center = side * np.array([x + rng.uniform(-0.02, 0.02), rng.uniform(0.3, 0.7)])
        speed = rng.uniform(1.2, 2.0) * unit
        objects.append(
            Object(
                look=look,
                center_T2=np.tile(center, (num_frames, 1)),
                radius_T=np.full(num_frames, radius),
                drift_T=(-speed if up else speed) * t,
            )
        )
    shake = camera_shake(rng, num_frames, 0.2 * unit)
    return Scene(width=side, height=side, objects=tuple(objects), shake_T2=shake, noise=rng.uniform(1.0, 4.0))


def draw_distractors(rng: np.random.Generator, label: int, num_frames: int) -> Scene:
    """One to three objects of different textures in quarters of the picture; one of them moves, and the camera pans.

    The class is (texture that moves, its motion): sway from side to side, bob up and down, or swell. Places and sizes
    of what stands still have the distribution of single frames of what moves: one frame does not tell which object
    moves. None, one or two objects stand still, equally often: with two in every clip a small network was at chance
    after ten epochs of 1,080 clips, for it has to find texture, motion and their place at once.
    """
    side = 2 * int(rng.integers(40, 65))  # 80..128
    unit = side / 64
    moving, motion = divmod(label, len(DISTRACTOR_MOTIONS))
    quarters = rng.permutation(4)[: len(DISTRACTOR_TEXTURES)]
    others = [index for index in range(len(DISTRACTOR_TEXTURES)) if index != moving]
    shown = {moving, *rng.permutation(others)[: int(rng.integers(len(others) + 1))].tolist()}
    t = np.arange(num_frames)
    objects = []
    for index, texture in enumerate(DISTRACTOR_TEXTURES):
        wave = triangle_wave(t, period=rng.uniform(12, 16), phase=rng.uniform(0, 1))
        still = rng.uniform(-1, 1, 3)
        x, y, size = (
            wave if index == moving and DISTRACTOR_MOTIONS[motion] == name else np.full(num_frames, still[i])
            for i, name in enumerate(DISTRACTOR_MOTIONS)
        )
        column, row = int(quarters[index]) % 2, int(quarters[index]) // 2
        reach = rng.uniform(3.5, 4.5) * unit
        center = np.stack([side * (0.27 + 0.46 * column) + reach * x, side * (0.27 + 0.46 * row) + reach * y], axis=1)
        radius = rng.uniform(0.13, 0.15) * side * np.exp(_SWELL * size)
        look = Look.draw(rng, texture)
        if index in shown:
            objects.append(Object(look=look, center_T2=center, radius_T=radius, drift_T=np.zeros(num_frames)))
    pan = rng.uniform(-0.25, 0.25, 2) * unit * t[:, None]
    shake = camera_shake(rng, num_frames, 0.25 * unit) + pan - pan.mean(axis=0)
    return Scene(width=side, height=side, objects=tuple(objects), shake_T2=shake, noise=rng.uniform(1.0, 4.0))
