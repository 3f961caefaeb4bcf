"""Over a hundred odd files, made by the ffmpeg program: each becomes what that program shows of it, or its reject."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.ffmpeg_program import ffmpeg_program
from tests.support.odd_files import check, make


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_odd_files_are_what_the_ffmpeg_program_shows_of_them(tmp_path: Path) -> None:
    if ffmpeg_program() is None:
        pytest.skip("the ffmpeg program makes these files: install imageio-ffmpeg")
    wrong = []
    files = make(tmp_path)
    assert len(files) > 100
    for file in files:
        ours, fault = check(file)
        if fault:
            wrong.append(f"{file.path.name}, expected {file.right}: {ours}; {fault}")
    assert not wrong, "\n".join(wrong)
