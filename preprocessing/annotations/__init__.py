"""Which videos there are, what each shows and which split it is in, from the lists that data sets come with.

    folder    ROOT/CLASS/FILE (all of it the train split), or ROOT/SPLIT/CLASS/FILE with SPLIT in train, val, test
    pictures  the same folders of picture files (ImageNet's): a sample of one frame each
    csv       path,label[,split][,start_s][,end_s]
    ucf101    classInd.txt, {train,val,test}list0N.txt
    hmdb51    CLASS_test_splitN.txt
    kinetics  label,youtube_id,time_start,time_end,split: train.csv, validate.csv, kinetics-400_val.csv ...
    moments   trainingSet.csv, validationSet.csv, moments_categories.txt

A listed video that does not exist stays in the list: it becomes a reject with the reason ``missing``. One whose path
leaves the folder stays as well and is never opened: a reject with the reason ``unsafe_path``.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from pipeline.errors import ConfigError
from preprocessing.annotations import csv_list, folder, hmdb51, kinetics, moments, ucf101
from preprocessing.annotations.lists import Lists, open_lists
from preprocessing.annotations.locate import as_store, located
from preprocessing.annotations.locate import check_source_root as _check_source_root
from preprocessing.annotations.types import SPLITS, Annotations, Source
from preprocessing.sources import SourceStore

__all__ = [
    "FORMATS",
    "SPLITS",
    "Annotations",
    "Source",
    "check_source_root",
    "read_annotations",
    "read_folder",
    "read_ucf101",
]

FORMATS = ("folder", "pictures", "csv", "ucf101", "hmdb51", "kinetics", "moments")


def read_annotations(
    format: str, store: SourceStore, annotations: str = "", split_index: int = 1, *, any_classes: bool = False
) -> Annotations:
    """Read the lists of one of ``FORMATS`` and look their videos up in ``store``.

    Args:
        annotations: folder or file of the lists, local or ``s3://``; empty: they are next to the videos.
        split_index: which of the published splits (ucf101, hmdb51).
        any_classes: accept other class names than the official ones (kinetics, moments).

    Raises:
        UserError: a list is missing or wrong (with file, line, value and fix), or none of the videos is in ``store``.
        StorageError: the videos cannot be listed or the lists cannot be read.
    """
    if format not in FORMATS:
        raise ConfigError("format", format, f"must be one of {', '.join(FORMATS)}")
    if format in ("folder", "pictures"):
        return folder.read_folder(store, pictures=format == "pictures")
    lists = open_lists(annotations, store)
    if format == "ucf101":
        found = ucf101.read_ucf101(lists, split_index)
        found = dataclasses.replace(found, sources=located(found.sources, store))
    elif format == "hmdb51":
        found = hmdb51.read_hmdb51(lists, store, split_index)
    elif format == "kinetics":
        found = kinetics.read_kinetics(lists, store, any_classes=any_classes)
    elif format == "moments":
        found = moments.read_moments(lists, store, any_classes=any_classes)
    else:
        found = csv_list.read_csv(lists, store)
    _check_source_root(store, found)
    return found


def read_folder(place: SourceStore | Path) -> Annotations:
    """Class folders below ``place``; see ``folder.read_folder``."""
    return folder.read_folder(as_store(place))


def read_ucf101(place: SourceStore | Path, split_index: int = 1) -> Annotations:
    """The lists in ``place``, without looking for the videos; see ``ucf101.read_ucf101``."""
    return ucf101.read_ucf101(Lists(as_store(place)), split_index)


def check_source_root(place: SourceStore | Path, annotations: Annotations) -> None:
    """UserError if none of the sources is in ``place``, with a guess where they are."""
    _check_source_root(as_store(place), annotations)
