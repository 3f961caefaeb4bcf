"""What the driver's actor answers, and what a change of the ranks costs, with times counted by hand."""

from __future__ import annotations

from jobs.train.control import Control, Progress
from jobs.train.events import Changes
from pipeline.training.ask import Ask


def test_a_wish_is_for_one_attempt() -> None:
    control = Control()
    control.begin(1)
    assert control.report(1, "n1", 0) is Ask.NONE
    control.wish(Ask.LEAVE)
    assert control.report(1, "n2", 5) is Ask.LEAVE
    assert control.progress().nodes == {"n1", "n2"}
    assert control.progress().steps == 5
    control.begin(2)
    assert control.report(2, "n1", 0) is Ask.NONE
    assert control.report(1, "n2", 9) is Ask.LEAVE  # of a group that is over
    assert control.progress().steps == 0


def test_progress_is_that_of_the_furthest_rank() -> None:
    control = Control()
    control.begin(1)
    control.report(1, "a", 3)
    first = control.progress()
    control.report(1, "b", 2)
    assert control.progress().last_s == first.last_s  # a slower rank is no progress
    control.report(1, "b", 4)
    assert control.progress().steps == 4
    assert control.progress().first_s == first.first_s <= control.progress().last_s


def test_a_change_is_over_when_the_new_group_is_where_the_old_one_was() -> None:
    found, clock = [], [0.0]
    changes = Changes(found.append, lambda: clock[0])
    changes.begin(4, 0)
    changes.follow(Progress(steps=25, last_s=100.0))
    changes.lose(Progress(steps=25, last_s=100.0), "a node was lost", 20)
    changes.begin(2, 20)
    changes.follow(Progress(steps=4, last_s=118.0))
    assert found == []
    changes.follow(Progress(steps=5, last_s=120.5))
    (change,) = found
    assert str(change) == "4 -> 2 ranks at step 20: a node was lost; 5 steps and 20 s lost"


def test_a_group_that_dies_on_its_way_back_does_not_count_time_twice() -> None:
    found, clock = [], [0.0]
    changes = Changes(found.append, lambda: clock[0])
    changes.begin(4, 0)
    changes.lose(Progress(steps=25, last_s=100.0), "first", 20)
    changes.begin(4, 20)
    clock[0] = 115.0
    changes.lose(Progress(steps=2, last_s=110.0), "second", 20)
    changes.begin(4, 20)
    changes.follow(Progress(steps=9, last_s=130.0))
    assert [(c.why, c.steps_lost) for c in found] == [("first", 5), ("second", 2)]
    assert sum(c.seconds_lost for c in found) == 30.0  # from 100 to 130


def test_a_command_that_ends_says_from_where_the_next_one_goes_on() -> None:
    found = []
    changes = Changes(found.append, lambda: 105.0)
    changes.begin(2, 10)
    changes.lose(Progress(steps=17, last_s=100.0), "the bucket is read-only", 20)
    changes.end()
    (change,) = found
    assert str(change) == "the ranks have ended at step 20: the bucket is read-only; 7 steps and 5 s lost"
