"""Descriptions of runs, versions and models: that they say what is stored, and nothing that a name slips in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from jobs.cards.known import read_known
from jobs.cards.markdown import code, plain, table, within
from jobs.cards.run_card import MOST, run_card
from jobs.cards.version_card import model_card, version_card
from jobs.evaluate.command import main as evaluate_main
from jobs.promote.command import PromoteArgs, promote
from pipeline.evaluation.report import EvalReport, report_path
from pipeline.storage import Storage, open_storage
from pipeline.tracking.aliases import Move
from pipeline.tracking.links import DATA_TAG, NOTE, PREPROCESSING, Link, run_address
from pipeline.tracking.pages import find_or_make, page_record
from pipeline.tracking.registry import Version, versions
from pipeline.tracking.runs import client
from tests.support.finished_run import CHECKPOINT, finished_run

EVIL = ["a|b", "<b>x</b>", "[x](http://y)", "`rm`", "*s* _e_", "a\nb", "\x1b[31m", "# h", "\\", "~~x~~", "&lt;"]


@pytest.mark.parametrize("name", EVIL)
def test_names_are_text_wherever_they_stand(name: str) -> None:
    """Rendered by another implementation of Markdown, a table of two cells stays one, and holds no other element."""
    text = "\n".join(table(("x", "y"), [(plain(name), code(name))]))
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(text)
    body = html.split("<tbody>")[1]
    assert body.count("<td>") == 2
    for element in ("<b>", "<a ", "<em>", "<strong>", "<h1>", "<s>"):
        assert element not in body


def test_a_text_that_is_too_long_ends_with_a_whole_line_and_says_so() -> None:
    lines = [f"line {number}" for number in range(2000)]
    text = within(lines, 500)
    assert len(text) <= 500
    assert text.endswith("(cut: more than this place takes)")
    assert text.split("\n\n")[0].splitlines() == lines[: len(text.split("\n\n")[0].splitlines())]
    assert within(lines[:3], 500) == "line 0\nline 1\nline 2\n"


@pytest.fixture
def run(tiny_set: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Storage:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.setenv("RECIPROCAL_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return open_storage(finished_run(tmp_path / "run", tiny_set))


@pytest.mark.slow
def test_a_run_is_described_from_its_folder(run: Storage, tiny_set: str) -> None:
    known = read_known(run)
    (report,) = known.reports
    text = run_card(known, [Link("Registered as", "m version 1", "#/models/m/versions/1")])
    for words in (
        "train 20",
        tiny_set,
        report.manifest_digest[:16],
        "rgb + flow",
        CHECKPOINT,
        report.score_text("fused", "top1"),
        "[m version 1](#/models/m/versions/1)",
        "page_test_2x1.html",
    ):
        assert words in text
    run.write(report_path("val", "2x1"), run.read(report_path("test", "2x1")).replace(b"checkpoint_1", b"checkpoint_0"))
    run.write(report_path("other", "2x1"), b"{")
    assert read_known(run).reports == (report,)  # not of another checkpoint, not a damaged one


@pytest.mark.slow
def test_a_run_whose_data_set_is_gone_is_described_without_it(run: Storage) -> None:
    record = json.loads(run.read("run.json"))
    record["config"]["data"]["uri"] = "file:///nowhere/at/all"
    run.write("run.json", json.dumps(record).encode())
    text = run_card(read_known(run))
    assert "nowhere" not in text
    assert record["manifest_digest"][:16] in text


@pytest.mark.slow
def test_a_promotion_describes_run_version_and_model_and_links_them(run: Storage, tiny_set: str) -> None:
    made = find_or_make(page_record(PREPROCESSING, "tiny-1", {}, {DATA_TAG: tiny_set})).info
    assert promote(PromoteArgs(run.uri, "m", num_views=2, data_licence="CC BY 4.0")) == 0
    (version,) = versions("m")
    asked = client()
    card = asked.get_model_version("m", "1").description
    report = EvalReport.from_json(run.read(report_path("test", "2x1")))
    for words in (
        "CC BY 4.0",
        *report.classes,
        f"top-1 {report.score_text('fused', 'top1')}",
        'mlflow.pyfunc.load_model("models:/m/1")',
        run_address(asked.get_run(version.tracking_run_id).info.experiment_id, version.tracking_run_id),
        f"[tiny-1]({run_address(made.experiment_id, made.run_id)})",
    ):
        assert words in card.replace("\\_", "_")
    assert run.read("registered/m@1.md").decode() == card
    note = asked.get_run(version.tracking_run_id).data.tags[NOTE]
    assert "[m version 1](#/models/m/versions/1)" in note
    assert f"[tiny-1]({run_address(made.experiment_id, made.run_id)})" in note
    back = asked.get_run(made.run_id).data.tags[NOTE]
    assert back.count("Runs on this data set") == 1
    assert report.manifest_digest in back
    model = asked.get_registered_model("m").description
    assert "| champion" in model
    assert "no version has the alias yet" in model
    assert set(version.tags) == {"top1", "data", "recipe", "views"}
    assert max(map(len, version.tags.values())) < 30


@pytest.mark.slow
def test_a_registered_models_scores_are_tied_to_it_and_to_the_data_set(run: Storage) -> None:
    page = json.loads(run.read("result.json"))["tracking_run_id"]
    client().log_metric(page, "test/top1_2x1", 0.5)
    assert promote(PromoteArgs(run.uri, "m", num_views=2)) == 0
    (version,) = versions("m")
    tied = client().get_logged_model(version.model_id).metrics
    assert [(m.key, m.value, m.dataset_name) for m in tied] == [("test/top1_2x1", 0.5, "tiny test")]
    assert version.model_id in {output.model_id for output in client().get_run(page).outputs.model_outputs}
    assert len(client().get_metric_history(page, "test/top1_2x1")) == 1


@pytest.mark.slow
def test_an_evaluation_that_is_there_describes_its_run(run: Storage) -> None:
    evaluate_main([run.uri, "--num-views", "2"])
    page = json.loads(run.read("result.json"))["tracking_run_id"]
    assert "### test, 2x1 views" in client().get_run(page).data.tags[NOTE]


def test_a_model_without_aliases_and_one_with_a_long_history() -> None:
    version = Version(name="m", version="3", tracking_run_id="", tags={"top1": "0.5"}, model_id="", aliases=())
    assert model_card("m", [version], {}) == "Action recognition, 1 version.\n"
    moves = [Move(version=str(n), at_ms=n, by="a", how="promoted", why="w" * 150) for n in range(1, 40)]
    text = model_card("m", [version], {"champion": moves})
    assert len(text) <= MOST
    assert "| 39" in text
    assert "| 20" not in text


def test_a_card_of_four_hundred_classes_fits_its_place(tmp_path: Path) -> None:
    classes = tuple(f"a rather long name of class number {number}" for number in range(400))
    report = EvalReport(
        run_id="r",
        model="mrst_t3_k400",
        modalities=("rgb",),
        dataset="k400",
        manifest_digest="d" * 64,
        split="val",
        protocol="20x1",
        num_videos=800,
        num_damaged=3,
        classes=classes,
        scores={"fused": {"top1": 0.5, "top5": 1.0, "mean_class": 0.5}},
        per_class=(0.5,) * 400,
        confusion=tuple(tuple(int(i == j or j == (i + 1) % 400) for j in range(400)) for i in range(400)),
        checkpoint="c",
        code_version="v",
        seconds=1.0,
    )
    folder = open_storage(f"file://{tmp_path}/run")
    folder.write(report_path("val", "20x1"), report.to_json().encode())
    version = Version(name="m", version="1", tracking_run_id="", tags={}, model_id="", aliases=())
    card = version_card(read_known(folder), report, version)
    assert len(card) <= MOST
    assert "and 360 more" in card
    assert "printed 74.1, here 50.00" in card
    assert "### Limits" in card
