"""Every command that reads a data set says in one line what is damaged, and never hangs or raises anything raw."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs import report as report_job
from jobs.evaluate import command as evaluate_job
from jobs.train import command as train_job
from jobs.verify import command as verify_job
from pipeline.errors import UserError
from pipeline.storage import LocalStorage, open_storage
from tests.support.damage import Damage, damages
from tests.support.run_folder import write_run
from tests.support.stored_set import clips_of, store_manifest, store_shard

pytestmark = pytest.mark.timeout(60)


class Started(Exception):
    """A command found nothing wrong and would begin to work."""


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> LocalStorage:
    folder = tmp_path_factory.mktemp("sound")
    storage = LocalStorage(str(folder / "set"))
    made = clips_of({"train/shard-000000": 3, "val/shard-000000": 1})
    store_manifest(storage, [store_shard(storage, folder, *path.split("/"), clips) for path, clips in made.items()])
    return storage


@pytest.fixture
def copy(sound: LocalStorage, tmp_path: Path) -> LocalStorage:
    shutil.copytree(sound.root, tmp_path / "set")
    return LocalStorage(str(tmp_path / "set"))


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Callable[[LocalStorage], int]]:
    """The commands that read a data set, each stopped where it would start workers."""

    def start(*_: object) -> None:
        raise Started

    monkeypatch.setattr(evaluate_job, "connect", start)
    monkeypatch.setattr(train_job, "hold_run", start)

    def evaluate(storage: LocalStorage) -> int:
        run = write_run(open_storage(f"file://{tmp_path}/run"), "rgb_demo", data_uri=storage.uri)
        evaluate_job.evaluate(evaluate_job.EvaluateArgs(run.uri, split="train"))
        return 0

    # The batch divides by the recipe's ranks, and a crop of 32 fits the small pictures.
    small = ["--clip.crop", "32", "--clip.resize", "36", "--run.output", f"file://{tmp_path}/runs"]
    return {
        "verify": lambda s: verify_job.main([s.uri, "--decode", "none"]),
        "report": lambda s: report_job.main([s.uri, "--out", str(tmp_path / "page.html")]),
        "train": lambda s: train_job.main(["rgb_demo", "--data.uri", s.uri, *small]),
        "evaluate": evaluate,
    }


def test_commands_accept_the_sound_set(copy: LocalStorage, commands: dict[str, Callable[[LocalStorage], int]]) -> None:
    assert commands["verify"](copy) == commands["report"](copy) == 0
    for name in ("train", "evaluate"):
        with pytest.raises(Started):
            commands[name](copy)


@pytest.mark.slow
@pytest.mark.parametrize("damage", damages(), ids=lambda damage: damage.name)
def test_damage_is_one_line_that_names_the_object(
    damage: Damage,
    copy: LocalStorage,
    commands: dict[str, Callable[[LocalStorage], int]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    damage.apply(copy)
    for name, command in commands.items():
        try:
            code = command(copy)
        except UserError as error:
            text = str(error)
            assert damage.object in text, text
            assert not set(text) & {"\n", "\x1b"}, text
            assert "jobs.verify" in text or "run jobs.preprocess" in text, text
            continue
        assert (name, code) == ("verify", 1), f"{name} did not see it"
        printed = capsys.readouterr().out
        assert damage.object.removesuffix(".json") in printed
        assert "\x1b" not in printed
        assert "\n00:00:00" not in printed
