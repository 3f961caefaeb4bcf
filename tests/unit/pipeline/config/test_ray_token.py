from __future__ import annotations

import stat
from pathlib import Path

import pytest

from pipeline.config.stack import ray_authentication, ray_token_file


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("RECIPROCAL_STACK", "RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RECIPROCAL_HOME", str(tmp_path / "state"))


def test_one_private_token_for_all() -> None:
    first, token = ray_authentication(), ray_token_file().read_text()
    assert first == ray_authentication() == {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(ray_token_file())}
    assert ray_token_file().read_text() == token
    assert len(token) == 64
    assert stat.S_IMODE(ray_token_file().stat().st_mode) == 0o600
    assert [p.name for p in ray_token_file().parent.iterdir()] == ["ray-token"]


def test_a_mode_that_ray_set_by_itself_still_gets_our_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")  # as ray.init() leaves it behind in its process
    assert ray_authentication()["RAY_AUTH_TOKEN_PATH"] == str(ray_token_file())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RECIPROCAL_STACK", "off"),
        ("RAY_ADDRESS", "10.0.0.1:6379"),
        ("RAY_AUTH_TOKEN", "x"),
        ("RAY_AUTH_MODE", "disabled"),
    ],
)
def test_somebody_elses_cluster_is_left_alone(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(name, value)
    assert ray_authentication() == {}
    assert not (tmp_path / "state").exists()
