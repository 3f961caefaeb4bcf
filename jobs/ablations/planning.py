"""What ``jobs.ablations`` is asked for, and the trainings that answer it. Nothing here trains."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from typing import Annotated

import tyro

from jobs.ablations.questions import QUESTIONS, Question, QuestionName
from jobs.ablations.training import TEST_SPLIT, Training, result_path
from jobs.ablations.variants import tiny_config
from pipeline.config.base import require
from pipeline.data.preflight import check_data
from pipeline.dataset.manifest import Manifest, read_manifest
from pipeline.errors import ManifestError
from pipeline.storage import Storage, open_storage

log = logging.getLogger("jobs.ablations")


@dataclasses.dataclass(frozen=True, kw_only=True)
class AblationsArgs:
    """Train and compare the papers' variants."""

    questions: Annotated[tuple[QuestionName, ...], tyro.conf.Positional] = ()
    """What to compare; none: the questions meant for the data set's classes."""
    data_uri: str
    """Data set: s3://BUCKET/PREFIX or file:///FOLDER."""
    start_uri: str = ""
    """Data set of the trainings that come first, where a question has one (coupling, rib, strategy): task parts."""
    out: str = ""
    """Folder for results; empty: ablations next to the data set."""
    seeds: int = 10
    """Number of seeds (0, 1, ...) of weights, order, augmentation and drawn steps; of every fold, where there are
    folds.
    """
    epochs: int = 0
    """Epochs of every variant; 0: the question's own."""
    experiment: str = "ablations"
    """MLflow experiment."""

    def __post_init__(self) -> None:
        require(
            self.data_uri.startswith(("s3://", "file://")),
            "data_uri",
            self.data_uri,
            "give s3://BUCKET/PREFIX or file:///FOLDER",
        )
        require(
            self.start_uri == "" or self.start_uri.startswith(("s3://", "file://")),
            "start_uri",
            self.start_uri,
            "give s3://BUCKET/PREFIX or file:///FOLDER",
        )
        require(
            self.out == "" or self.out.startswith(("s3://", "file://")),
            "out",
            self.out,
            "give s3://BUCKET/PREFIX or file:///FOLDER",
        )
        require(self.seeds >= 1, "seeds", self.seeds, "must be at least 1")
        require(self.epochs >= 0, "epochs", self.epochs, "must be 0 (the question's own) or more")


def chosen(args: AblationsArgs, manifest: Manifest) -> list[Question]:
    """The questions that were asked for, or that the data set is meant for.

    Raises:
        ConfigError: none is meant for it.
    """
    if args.questions:
        asked = [QUESTIONS[name] for name in dict.fromkeys(args.questions)]
        for question in asked:
            if question.classes != tuple(manifest.classes):
                log.warning(
                    "%s has other classes than those that %s is meant for: %s",
                    args.data_uri,
                    question.name,
                    question.data,
                )
        return asked
    found = [question for question in QUESTIONS.values() if question.classes == tuple(manifest.classes)]
    meant = "; ".join(f"{question.name}: {question.data}" for question in QUESTIONS.values())
    fix = f"{args.data_uri} is not a data set that a question is meant for: name one, or make such a set ({meant})"
    require(bool(found), "questions", args.questions, fix)
    return found


def plan_starts(args: AblationsArgs, question: Question) -> list[Training]:
    """The trainings that come first, one for each seed; none where the question has no start.

    Raises:
        ConfigError: no data set is named for them, or one of other classes.
    """
    if (start := question.start) is None:
        return []
    fix = f"{question.name} trains each stream alone first: make such a set ({start.data}) and name it here"
    require(bool(args.start_uri), "start_uri", args.start_uri, fix)
    storage = open_storage(args.start_uri)
    manifest = read_manifest(storage)
    require(tuple(manifest.classes) == start.classes, "start_uri", args.start_uri, f"has other classes; {fix}")
    found = []
    for seed in range(args.seeds):
        config = tiny_config(start.variant, start.budget, args.start_uri, seed)
        path = result_path(start.variant.name, config, manifest)
        found.append(Training(start.variant.name, config, path, keep=path.replace(".json", ".safetensors")))
    check_data(
        storage,
        manifest,
        data=found[0].config.data,
        clip=found[0].config.clip,
        modalities=start.variant.model.modalities,
        world_size=1,
    )
    return found


def plan(
    args: AblationsArgs, question: Question, manifest: Manifest, starts: Sequence[Training] = ()
) -> list[Training]:
    """All trainings of a question, seed by seed and fold by fold, so that an interrupted run has complete ones.

    Args:
        args: data set, seeds and epochs.
        question: which.
        manifest: of the data set.
        starts: of ``plan_starts``.
    """
    found = []
    for seed in range(args.seeds):
        start = starts[seed].keep if starts else ""
        for fold in question.folds or (None,):
            for variant in question.variants:
                config = tiny_config(
                    variant,
                    question.budget,
                    args.data_uri,
                    seed,
                    epochs=args.epochs,
                    fold=fold,
                    pattern=question.fold_pattern,
                )
                path = result_path(variant.name, config, manifest, start)
                found.append(Training(variant.name, config, path, fold.name if fold else "", start))
    return found


def check(storage: Storage, manifest: Manifest, question: Question, trainings: Sequence[Training]) -> None:
    """Refuse a data set that a question's trainings cannot use, before any of them starts.

    Raises:
        ManifestError: no videos to test on.
        UserError: what ``check_data`` refuses, such as a missing modality or videos that are too short.
    """
    if not question.folds and not manifest.split_sizes().get(TEST_SPLIT):
        raise ManifestError(f"{storage.uri}: split {TEST_SPLIT} is missing or empty; the variants are compared on it")
    seen = set()
    for training in trainings:
        config = training.config
        if (key := (config.model.modalities, config.data.val_sources, config.clip)) in seen:
            continue
        seen.add(key)
        found = check_data(
            storage, manifest, data=config.data, clip=config.clip, modalities=config.model.modalities, world_size=1
        )
        for line in found.warnings:
            log.warning("%s: %s", training.title, line)
