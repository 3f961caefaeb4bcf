"""Pages of the local stack's MLflow after the demo: curves of the CRN run, versions of the registered model."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from docs.pictures.chromium import photograph
from docs.pictures.files import save_png
from pipeline.config.stack import Stack, find_stack
from pipeline.errors import UserError
from pipeline.tracking.registry import versions
from pipeline.tracking.runs import run_page

MODEL = "synthetic-crn"  # as jobs.demo names it
CURVES = "train/(loss|top1|lr)$"
RUN_SIZE, REGISTRY_SIZE = (1240, 640), (1240, 690)
# A new browser profile is greeted by an assistant's panel and MLflow's pages for language models.
_STORAGE = {
    "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": "true",
    "mlflow.assistant.panelOpen_v1": "false",
    "mlflow.workflowType_v1": '"machine_learning"',
}
_CHARTS = "document.querySelectorAll('.js-plotly-plot .main-svg').length >= 2"
# Without a mouse the charts' tool bars never hide.
_HIDE = """
{
  const style = document.createElement('style');
  style.textContent = '.modebar {display: none !important}';
  document.head.append(style);
}
"""
# React notices a new value only through the setter that it has not overridden.
_FILTER = """
{
  const field = document.querySelector('input[placeholder="Search metric charts"]');
  const set = Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, 'value').set;
  set.call(field, %r);
  field.dispatchEvent(new Event('input', {bubbles: true}));
}
"""


def draw_run(path: Path) -> None:
    """The curves of the run behind the registered model's newest version."""
    url = f"{run_page(_run_id())}/model-metrics"
    save_png(photograph(url, size=RUN_SIZE, ready=_CHARTS, prepare=_HIDE + _FILTER % CURVES, **_browser()), path)


def draw_registry(path: Path) -> None:
    """The registered model's versions with their tags and aliases."""
    _run_id()
    url = f"{_stack().mlflow_uri}/#/models/{MODEL}"
    ready = "document.body.innerText.includes('champion')"
    save_png(photograph(url, size=REGISTRY_SIZE, ready=ready, **_browser()), path)


def _stack() -> Stack:
    stack = find_stack()
    if stack is None:
        raise UserError("no local stack is recorded: make demo, or python -m infra.local up where it has run before")
    return stack


def _browser() -> dict[str, Any]:
    """What the browser knows before it opens the page: settings of MLflow's page, and the password."""
    stack = _stack()
    login = base64.b64encode(f"{stack.mlflow_user}:{stack.mlflow_password}".encode()).decode()
    return {"storage": _STORAGE, "headers": {"Authorization": f"Basic {login}"}}


def _run_id() -> str:
    _stack()
    found = versions(MODEL)
    if not found:
        raise UserError(f"the local stack has no registered model {MODEL}: make demo makes it")
    return found[0].tracking_run_id
