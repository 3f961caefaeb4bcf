"""From the bytes of some samples to a Batch: plans, decoding, motion stacks, fillers and stand-ins."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from pipeline.common.media import WrongPictureSize
from pipeline.config.data import ClipConfig
from pipeline.config.model import CHANNELS
from pipeline.data.batch import Batch
from pipeline.data.decoding.base import Decoder, Row
from pipeline.data.decoding.pictures import check_member
from pipeline.data.decoding.stacks import empty_clips, stack_motion
from pipeline.data.delivery import Delivery
from pipeline.data.fetch.damage import Damaged, DamageLedger
from pipeline.data.index import SplitIndex
from pipeline.data.sampling.clips import sample_plans
from pipeline.data.sampling.order import MicroBatch
from pipeline.dataset.sample import extension, stored_modalities
from pipeline.errors import ReciprocalError

_MEASURED_BATCH, _MEASURED_ROWS = 2, 4  # which batch, and how many of its rows, tell decoding from augmentation


class Assembler:
    """Makes batches of one split with one decoder; it keeps no state between batches but the ledger of damage.

    Args:
        train: one random clip a sample, else ``num_views`` fixed ones with ``num_crops`` crops each, crop by crop
            within a view.
        channels_last: memory order of the decoder's clips, and then of the batches'.
        delivery: brings the decoder's tensors to where the batches are wanted. Motion is stacked there, because stacks
            are several times as large.
    """

    def __init__(
        self,
        index: SplitIndex,
        decoder: Decoder,
        ledger: DamageLedger,
        *,
        clip: ClipConfig,
        train: bool,
        seed: int,
        delivery: Delivery,
        num_views: int = 1,
        num_crops: int = 1,
        channels_last: bool = False,
    ) -> None:
        self._index, self._decoder, self._ledger, self._clip = index, decoder, ledger, clip
        self._train, self._seed, self._delivery = train, seed, delivery
        self._last = channels_last
        self._num_views, self._num_crops = (1, 1) if train else (num_views, num_crops)
        self._made = 0
        self.decode_share = 1.0
        """Share of the decoder's time that goes into decoding; measured once, in training, on some rows of an early
        batch.
        """

    def begin(
        self, micro_batch: MicroBatch, fetched: Sequence[dict[str, bytes] | Damaged], epoch: int
    ) -> Callable[[], Batch]:
        """Begin to make the batch of a micro-batch's samples.

        Args:
            micro_batch: its fillers become rows of weight 0.
            fetched: what arrived for each of its samples, fillers left out.

        Returns:
            A function that waits for the batch; to be called once, in the order of the ``begin`` calls. It raises
            ReciprocalError where bytes that are right cannot be decoded, and lists the batch's keys.

        Raises:
            DamagedSampleError: more damaged samples than the budget allows.
        """
        views = self._num_views * self._num_crops
        size = len(micro_batch.samples) * views
        labels, weights, keys = np.zeros(size, np.int64), np.zeros(size, np.float32), [""] * size
        rows: list[Row] = []
        failed: ReciprocalError | None = None
        for n, (i, members) in enumerate(zip(micro_batch.stored, fetched, strict=True)):
            place = slice(n * views, (n + 1) * views)
            labels[place] = self._index.labels[i]
            keys[place] = [self._index.key(i)] * views
            if isinstance(members, Damaged):
                self._ledger.add(members)
                continue
            try:
                made = self._rows(i, members, epoch)
            except WrongPictureSize as error:
                self._ledger.add(Damaged(self._index.key(i), self._index.tars[self._index.tar_of[i]], str(error)))
                continue
            except ReciprocalError as error:  # raised at its step, behind the batches before it
                failed = failed or error
                continue
            weights[place] = 1
            rows += made
        waiting = self._decoder.submit(rows) if rows and failed is None else dict

        def finish() -> Batch:
            with self._delivery.open():
                return self._delivery.seal(made_batch())

        def made_batch() -> Batch:
            try:
                if failed is not None:
                    raise failed
                clips = self._delivery.send(waiting())
                self._measure(rows)
            except ReciprocalError as error:
                where = f"epoch {epoch}, step {micro_batch.step}: {', '.join(k for k in keys if k)}"
                raise type(error)(*error.args[:-1], f"{error.args[-1]} ({where})") from error
            good = np.flatnonzero(weights)
            inputs = {m: self._stack(m, clips.get(m), good, size) for m in self._index.modalities}
            return Batch(
                inputs,
                self._tensor(labels),
                self._tensor(weights),
                tuple(keys),
                epoch,
                micro_batch.step,
                micro_batch.index,
                micro_batch.count,
                micro_batch.offset,
            )

        return finish

    def _measure(self, rows: Sequence[Row]) -> None:
        self._made += 1
        if self._train and rows and self._made == _MEASURED_BATCH:
            self.decode_share = self._decoder.decode_share(rows[:_MEASURED_ROWS])

    def _rows(self, i: int, members: dict[str, bytes], epoch: int) -> list[Row]:
        num_frames, height, width = (int(x) for x in self._index.sizes[i])
        named = {m: members[extension(m)] for m in stored_modalities(self._index.modalities)}
        for modality, video in named.items():
            check_member(video, modality, (height, width))
        plans = sample_plans(
            self._index.key(i),
            num_frames,
            height,
            width,
            self._clip,
            self._index.modalities,
            train=self._train,
            seed=self._seed,
            epoch=epoch,
            num_views=self._num_views,
            num_crops=self._num_crops,
        )
        return [(named, plan, (height, width)) for plan in plans]

    def _stack(self, modality: str, clips: torch.Tensor | None, good: np.ndarray, size: int) -> torch.Tensor:
        clip = self._clip
        if clips is not None:
            clips = clips if modality == "rgb" else stack_motion(clips, clip)
            if len(good) == size:
                return clips
        channels = CHANNELS[modality] * (1 if modality == "rgb" else clip.stack)
        full, _ = empty_clips(size, clip.num_frames, channels, clip.crop, self._last, self._delivery.target)
        full.zero_()
        if clips is not None:
            full[self._tensor(good)] = clips
        return full

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return self._delivery.tensor(torch.from_numpy(array))
