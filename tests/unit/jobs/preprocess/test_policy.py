"""What is done about a shard's task that has ended, without Ray."""

from __future__ import annotations

import pytest

from jobs.preprocess.policy import Decision, Ending, History, decide


@pytest.mark.parametrize(
    ("ending", "searched", "num_failed", "too_many_rejects", "expected"),
    [
        (Ending.STORED, False, 0, False, Decision.ACCEPT),
        (Ending.STORED, True, 0, False, Decision.ACCEPT),
        (Ending.STORED, False, 2, False, Decision.ACCEPT),
        (Ending.STORED, False, 0, True, Decision.STOP_RUN),
        (Ending.WORKER_DIED, False, 0, False, Decision.SEARCH_AND_RETRY),
        (Ending.WORKER_DIED, False, 2, False, Decision.SEARCH_AND_RETRY),
        (Ending.WORKER_DIED, True, 0, False, Decision.FAIL_SHARD),
        (Ending.WORKER_DIED, True, 1, False, Decision.FAIL_SHARD),
        (Ending.WORKER_DIED, True, 2, False, Decision.STOP_RUN),
        (Ending.FAILED, False, 0, False, Decision.FAIL_SHARD),
        (Ending.FAILED, True, 1, False, Decision.FAIL_SHARD),
        (Ending.FAILED, False, 2, False, Decision.STOP_RUN),
    ],
)
def test_how_an_attempt_ended_and_what_was_before_decide(ending, searched, num_failed, too_many_rejects, expected):
    history = History(searched=searched, num_failed=num_failed, too_many_rejects=too_many_rejects)
    assert decide(ending, history) is expected


@pytest.mark.parametrize("ending", [Ending.WORKER_DIED, Ending.FAILED])
def test_a_cluster_on_which_nothing_works_ends_the_run_with_its_third_failed_shard(ending):
    """Every attempt ends the same way: each shard is attempted at most twice, and three shards at all."""
    attempts, failed = [], 0
    for shard in range(1000):
        searched, decision = False, Decision.SEARCH_AND_RETRY
        while decision is Decision.SEARCH_AND_RETRY:
            attempts.append(shard)
            decision = decide(ending, History(searched=searched, num_failed=failed, too_many_rejects=False))
            searched = True
        failed += 1
        if decision is Decision.STOP_RUN:
            break
    assert failed == 3
    assert max(attempts.count(shard) for shard in attempts) <= 2
