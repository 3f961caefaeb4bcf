"""Write the descriptions of a run's page, of a registered model and of its versions, after a command has changed what
they tell of.
"""

from __future__ import annotations

import logging

from jobs.cards.known import read_known
from jobs.cards.run_card import run_card
from jobs.cards.version_card import model_card
from pipeline.errors import StorageError, UserError
from pipeline.storage import Storage
from pipeline.tracking.aliases import alias_history
from pipeline.tracking.links import describe_page, link_preprocessing, link_versions
from pipeline.tracking.once import asked_once
from pipeline.tracking.page import RunPage
from pipeline.tracking.registry import describe_model, versions
from pipeline.tracking.runs import TrackingError

log = logging.getLogger("jobs.cards")


def finish_page(page: RunPage, run: Storage) -> bool:
    """End a page that needs no status, and describe its run; returns whether the page has all.

    A description that cannot be written costs a line: it says nothing that is not in the run's folder.
    """
    done = page.finish()
    if done:
        describe_run(page, run)
    return done


def describe_run(page: RunPage, run: Storage) -> None:
    """Describe a run or an ensemble on its page, which the tracking server has."""
    try:
        with asked_once():
            known, links = read_known(run), link_versions(page.tracking_run_id)
            if known.record is None and not known.reports:
                return  # neither a run nor an ensemble: the journal of jobs.preprocess
            if known.config and known.record:
                digest = known.record.manifest_digest
                links = [*link_preprocessing(known.config.data.uri, digest, page.tracking_run_id), *links]
            describe_page(page.tracking_run_id, run_card(known, links))
    except (TrackingError, StorageError, UserError) as error:
        log.warning("the run's page has no description: %s", str(error).partition("\n")[0])


def describe_registered(name: str) -> None:
    """Describe a registered model: its aliases and who held them. The aliases have moved already: a description that
    cannot be written costs a line.
    """
    try:
        found = versions(name)
        aliases = sorted({alias for version in found for alias in version.aliases})
        describe_model(name, model_card(name, found, {alias: alias_history(name, alias) for alias in aliases}))
    except (TrackingError, UserError) as error:
        log.warning("the registered model %s has no new description: %s", name, str(error).partition("\n")[0])
