"""Which decoder a configuration means, by device, cores and stored pictures."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pipeline.config.data import ClipConfig, DataConfig
from pipeline.data.decoding import factory
from pipeline.data.decoding.nvdec import DecoderCaps
from pipeline.errors import ConfigError


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One that decodes from 128 x 96 pixels on."""
    monkeypatch.setattr(factory, "decoder_caps", lambda codec: DecoderCaps(codec == "vp9", 7, 128, 96, 8192, 8192))
    monkeypatch.setattr(factory.torch, "zeros", lambda *_, **__: None)
    factory.nvdec_least.cache_clear()
    yield
    factory.nvdec_least.cache_clear()


@pytest.mark.parametrize(
    ("device", "cores", "least_px", "kind"),
    [
        ("cpu", 1, 64, "ffmpeg"),
        ("cpu", 16, 256, "ffmpeg"),
        ("gpu", 1, 128, "dali"),
        ("gpu", factory.FFMPEG_CORES - 1, 256, "dali"),
        ("gpu", factory.FFMPEG_CORES, 256, "ffmpeg"),
        ("gpu", 1, 127, "ffmpeg"),
        ("gpu", 1, None, "dali"),
    ],
)
def test_auto_takes_what_decodes_faster_and_at_all(
    card: None, monkeypatch: pytest.MonkeyPatch, device: str, cores: int, least_px: int | None, kind: str
) -> None:
    monkeypatch.setattr(factory, "rank_cores", lambda: cores)
    assert factory.backend(DataConfig(), device, least_px) == kind  # type: ignore[arg-type]


def test_pictures_too_small_for_the_card_are_refused_where_it_was_asked_for(card: None) -> None:
    with pytest.raises(ConfigError, match=r"NVDEC decodes VP9 from 128 x 128.* has pictures of 64: use data"):
        factory.backend(DataConfig(decoder="dali"), "gpu", 64)
    assert factory.backend(DataConfig(decoder="dali"), "cpu", 64) == "dali"
    assert factory.backend(DataConfig(decoder="ffmpeg"), "gpu", 64) == "ffmpeg"


def test_without_the_drivers_library_the_limit_is_a_common_one(card: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(codec: str) -> DecoderCaps:
        raise OSError(codec)

    monkeypatch.setattr(factory, "decoder_caps", missing)
    assert factory.nvdec_least(0) == 128


def test_nvdec_is_fed_by_more_threads_than_a_rank_has_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(factory, "rank_cores", lambda: 2)
    assert factory.decode_threads("dali", "gpu") == factory.NVDEC_THREADS
    assert factory.decode_threads("dali", "cpu") == factory.decode_threads("ffmpeg", "gpu") == 2
    monkeypatch.setattr(factory, "rank_cores", lambda: 30)
    assert factory.decode_threads("dali", "gpu") == 30


def test_a_dali_that_is_too_old_is_refused_before_it_decodes(monkeypatch: pytest.MonkeyPatch) -> None:
    dali = pytest.importorskip("pipeline.data.decoding.dali")
    monkeypatch.setattr(dali, "VERSION", (2, 3))
    with pytest.raises(ConfigError, match=r"DALI 2.3 is older than 2.4 .*: update it, or use data.decoder=ffmpeg"):
        factory.make_decoder(DataConfig(decoder="dali"), ClipConfig(), ("rgb",), 20.0, max_rows=1, device="cpu")
