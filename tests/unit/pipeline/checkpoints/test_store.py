"""What a run's folder holds of checkpoints, whatever happened to them: taken, passed over, set aside or removed."""

from __future__ import annotations

import hashlib
import json
import logging
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.checkpoints.listing import State
from pipeline.checkpoints.record import RECORD, Position
from pipeline.checkpoints.store import CheckpointStore
from pipeline.errors import DamagedCheckpointError, StorageError, UserError
from pipeline.storage import LocalStorage

FILES = {"model.safetensors": b"weights" * 50, "optimizer.pt": b"momentum" * 40, "state.json": b'{"version": 1}'}


def nothing_to_check(folder: Path) -> None:
    del folder


@pytest.fixture
def run(tmp_path: Path) -> LocalStorage:
    return LocalStorage(str(tmp_path / "run"))


@pytest.fixture
def save(run: LocalStorage, tmp_path: Path) -> Callable[..., str]:
    """Store a checkpoint after so many steps; its weights name the step."""

    def stored(step: int, **metrics: float) -> str:
        folder = tmp_path / f"made{step}"
        folder.mkdir(exist_ok=True)
        for name, data in FILES.items():
            (folder / name).write_bytes(data + str(step).encode())
        return CheckpointStore(run).save(folder, Position(step=step, global_step=step), metrics)

    return stored


def taken(run: LocalStorage) -> str | None:
    with CheckpointStore(run).newest(nothing_to_check) as found:
        if found is None:
            return None
        name, folder = found
        step = int(name.removeprefix("checkpoint_").partition("-")[0])
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
            file: data + str(step).encode() for file, data in FILES.items()
        }
        return name


def names(run: LocalStorage) -> list[str]:
    return [entry.name for entry in CheckpointStore(run).entries()]


def test_the_list_of_files_says_what_sha256sum_says(run: LocalStorage, save: Callable[..., str]) -> None:
    name = save(4, loss=0.5)
    assert name == "checkpoint_000000004"
    listed = json.loads(run.read(f"{name}/{RECORD}"))
    assert {file["name"]: (file["size"], file["sha256"]) for file in listed["files"]} == {
        file: (len(data) + 1, hashlib.sha256(data + b"4").hexdigest()) for file, data in FILES.items()
    }
    assert listed["position"] == {"epoch": 0, "step": 4, "global_step": 4}
    assert listed["metrics"] == {"loss": 0.5}
    assert taken(run) == name


def test_the_list_of_files_is_written_last(
    run: LocalStorage, save: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    for method in ("write", "write_file"):
        original = getattr(LocalStorage, method)
        monkeypatch.setattr(
            LocalStorage,
            method,
            lambda self, path, data, original=original: (written.append(path), original(self, path, data)),
        )
    name = save(1)
    assert sorted(written[:-1]) == [f"{name}/{file}" for file in FILES]
    assert written[-1] == f"{name}/{RECORD}"


def damage(run: LocalStorage, path: str, how: str) -> None:
    data = run.read(path)
    if how == "missing":
        run.delete(path)
    elif how == "cut off":
        run.write(path, data[:-7])
    else:
        place = random.Random(path).randrange(len(data))
        run.write(path, data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])


@pytest.mark.parametrize("file", [*FILES, RECORD])
@pytest.mark.parametrize("how", ["flipped bit", "cut off", "missing"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_taken(
    run: LocalStorage, save: Callable[..., str], caplog: pytest.LogCaptureFixture, file: str, how: str
) -> None:
    first, second = save(3), save(6)
    before = {path: run.read(path) for path in run.list(first)}
    damage(run, f"{second}/{file}", how)
    caplog.set_level(logging.INFO)
    for _ in range(2):
        assert taken(run) == first
    half = (file, how) == (RECORD, "missing")
    lines = [record.getMessage() for record in caplog.records]
    if half:
        assert lines == [f"{run.uri}/{second} is half a checkpoint, whose writer was killed: passed over"] * 2
    else:
        (line,) = lines  # once: then it is set aside
        assert line.startswith(f"{run.uri}/{second}/{file}")
        assert line.endswith("the checkpoint is set aside and the one before it taken")
        assert "\n" not in line
        with pytest.raises(DamagedCheckpointError, match=rf"{second}/{file}"), CheckpointStore(run).fetch(second):
            pass
    assert {path: run.read(path) for path in run.list(first)} == before


def test_every_single_flipped_bit_is_noticed(run: LocalStorage, save: Callable[..., str]) -> None:
    """In weights, optimiser, state and list: 200 random ones. Blanks of the list may change into other blanks."""
    name, draw = save(3), random.Random(0)
    unnoticed = 0
    for _ in range(200):
        path = f"{name}/{draw.choice([*FILES, RECORD])}"
        data = run.read(path)
        bit = draw.randrange(8 * len(data))
        run.write(path, data[: bit // 8] + bytes([data[bit // 8] ^ 1 << bit % 8]) + data[bit // 8 + 1 :])
        try:
            with CheckpointStore(run).fetch(name) as folder:
                unnoticed += 1
                assert path.endswith(RECORD)
                assert (folder / "model.safetensors").read_bytes() == FILES["model.safetensors"] + b"3"
        except DamagedCheckpointError:
            pass
        run.write(path, data)
    assert unnoticed <= 2


def test_bytes_that_were_damaged_on_their_way_are_read_again(
    run: LocalStorage, save: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name, read_range, reads = save(3), LocalStorage.read_range, []

    def once_wrong(self: LocalStorage, path: str, offset: int, length: int) -> bytes:
        reads.append(path)
        data = read_range(self, path, offset, length)
        return b"?" + data[1:] if len(reads) == 1 else data

    monkeypatch.setattr(LocalStorage, "read_range", once_wrong)
    assert taken(run) == name
    assert len(reads) == len(FILES) + 1


def test_half_a_checkpoint_is_never_taken_and_removed_once_a_newer_one_is_whole(
    run: LocalStorage, save: Callable[..., str]
) -> None:
    run.write("checkpoint_000000002/model.safetensors", b"w")
    assert taken(run) is None
    run.write("checkpoint_000000009/model.safetensors", b"w")
    name = save(5)
    CheckpointStore(run).prune()
    assert names(run) == ["checkpoint_000000009", name]
    assert taken(run) == name


def test_a_step_saved_again_gets_a_folder_of_its_own(run: LocalStorage, save: Callable[..., str]) -> None:
    first = save(7)
    run.write(f"{first}/{RECORD}", b"")
    assert taken(run) is None
    assert [save(7), save(7)] == [f"{first}-2", f"{first}-3"]
    assert taken(run) == f"{first}-3"
    assert names(run) == [f"{first}-3", f"{first}-2", first]
    assert not run.read(f"{first}/{RECORD}")


def test_the_last_ones_and_the_best_are_kept(run: LocalStorage, save: Callable[..., str]) -> None:
    scores = {2: 0.3, 4: 0.9, 6: 0.9, 8: 0.5, 10: float("nan"), 12: 0.1}
    for step, score in scores.items():
        save(step, **{"val/top1_1x1": score, "val/loss_1x1": 1 - score})
    save(14)
    for metric in ("val/top1_1x1", "val/loss_1x1"):
        store = CheckpointStore(run, keep=3, keep_best=metric)
        store.prune()
        assert names(run) == [f"checkpoint_{step:09d}" for step in (14, 12, 10, 4)]  # of equals the earliest
        best = store.best()
        assert best is not None
        assert best[0].name == "checkpoint_000000004"
    CheckpointStore(run, keep=1, keep_best="val/top5_1x1").prune()
    assert names(run) == ["checkpoint_000000014"]


def test_what_was_set_aside_counts_for_nothing_and_stays(run: LocalStorage, save: Callable[..., str]) -> None:
    for step in (2, 4, 6, 8):
        save(step)
    damage(run, "checkpoint_000000008/optimizer.pt", "cut off")
    assert taken(run) == "checkpoint_000000006"
    CheckpointStore(run, keep=2).prune()
    assert names(run) == [f"checkpoint_{step:09d}" for step in (8, 6, 4)]
    assert "optimizer.pt has" in json.loads(run.read("checkpoint_000000008/set_aside.json"))["problem"]


def test_a_removal_that_is_cut_short_leaves_half_a_checkpoint(
    run: LocalStorage, save: Callable[..., str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for step in (1, 2, 3):
        save(step)
    delete, deleted = LocalStorage.delete, []

    def fails_later(self: LocalStorage, path: str) -> None:
        if deleted:
            raise StorageError("gone")
        deleted.append(path)
        delete(self, path)

    with monkeypatch.context() as patch:
        patch.setattr(LocalStorage, "delete", fails_later)
        CheckpointStore(run).prune()
    assert "could not be removed: gone" in caplog.text
    assert [entry.state for entry in CheckpointStore(run).entries()] == [State.WHOLE, State.WHOLE, State.HALF]
    CheckpointStore(run).prune()
    assert names(run) == ["checkpoint_000000003", "checkpoint_000000002"]


def older_code(run: LocalStorage, name: str, step: int) -> None:
    for file in FILES:
        run.write(f"{name}/{file}", b"old")
    run.write(f"{name}/state.json", json.dumps({"position": {"global_step": step}}).encode())


def test_checkpoints_of_older_code_are_taken_by_their_steps_and_said_to_be_unverified(
    run: LocalStorage, save: Callable[..., str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    older_code(run, "checkpoint_2026-01-02_03-04-05.678901", 20)
    older_code(run, "checkpoint_2026-01-02_03-04-09.123456", 9)
    run.write("checkpoint_2026-01-02_03-05-00.000000/state.json", b"{}")  # its writer was killed
    with CheckpointStore(run).newest(nothing_to_check) as found:
        assert found is not None
        assert found[0] == "checkpoint_2026-01-02_03-04-05.678901"
    assert "is of older code, without checksums: unverified" in caplog.text

    def unreadable(folder: Path) -> None:
        if json.loads((folder / "state.json").read_bytes())["position"]["global_step"] == 20:
            raise UserError("model.safetensors is not a file of weights")

    with CheckpointStore(run).newest(unreadable) as found:
        assert found is not None
        assert found[0] == "checkpoint_2026-01-02_03-04-09.123456"
    save(30), save(40)
    CheckpointStore(run).prune()
    assert names(run) == ["checkpoint_000000040", "checkpoint_000000030", "checkpoint_2026-01-02_03-04-05.678901"]


def test_a_run_without_a_sound_checkpoint_starts_at_its_first_step_and_says_so(
    run: LocalStorage, save: Callable[..., str], caplog: pytest.LogCaptureFixture
) -> None:
    assert taken(run) is None
    assert not caplog.records
    damage(run, f"{save(3)}/model.safetensors", "flipped bit")
    assert taken(run) is None
    assert caplog.records[-1].getMessage() == (
        f"no sound checkpoint is left in {run.uri}: the run starts at its first step"
    )


def test_newer_codes_checkpoints_are_refused_and_left_alone(run: LocalStorage, save: Callable[..., str]) -> None:
    name = save(3)
    fields = json.loads(run.read(f"{name}/{RECORD}"))
    del fields["sha256"]
    fields["version"] = 2
    digest = hashlib.sha256(json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    run.write(f"{name}/{RECORD}", json.dumps({**fields, "sha256": digest}).encode())
    with pytest.raises(Exception, match=r"version 2, this code reads 1: use newer code"):
        taken(run)
    assert not run.exists(f"{name}/set_aside.json")
