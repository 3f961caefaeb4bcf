"""Photographs of a page that draws itself: headless Chromium, told what to do over its DevTools protocol."""

from __future__ import annotations

import asyncio
import base64
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp

from pipeline.errors import ReciprocalError, UserError

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
)
_TIMEOUT_S = 60.0
_SETTLE_S = 2.0  # charts move into place


def photograph(
    url: str,
    *,
    size: tuple[int, int],
    ready: str,
    prepare: str = "",
    storage: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
) -> bytes:
    """Open a page in a browser of its own and take its picture.

    Args:
        url: the page.
        size: width and height of the window in pixels.
        ready: a JavaScript expression that is true once the page shows what the picture is about.
        prepare: JavaScript to run before the page is waited for again and photographed.
        storage: entries of the page's localStorage, set before its first script runs.
        headers: of every request that the page makes.

    Returns:
        PNG.

    Raises:
        UserError: there is no Chromium.
        ReciprocalError: it did not start, or the page was not ready within a minute.
    """
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        raise UserError(f"none of {', '.join(PROGRAMS)} is on PATH: apt-get install chromium")
    with tempfile.TemporaryDirectory() as profile:
        command = [program, *_FLAGS, f"--user-data-dir={profile}", f"--window-size={size[0]},{size[1]}", "about:blank"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as browser:
            try:
                return asyncio.run(_photograph(Path(profile), url, size, ready, prepare, storage or {}, headers or {}))
            finally:
                browser.terminate()
                browser.wait()


async def _photograph(
    profile: Path,
    url: str,
    size: tuple[int, int],
    ready: str,
    prepare: str,
    storage: Mapping[str, str],
    headers: Mapping[str, str],
) -> bytes:
    port = await _port(profile)
    async with aiohttp.ClientSession() as session:
        async with session.get(f"http://127.0.0.1:{port}/json") as answer:
            page = next(target for target in await answer.json() if target["type"] == "page")
        async with session.ws_connect(page["webSocketDebuggerUrl"], max_msg_size=0) as socket:
            calls = _Calls(socket)
            await calls.send("Page.enable")
            await calls.send(
                "Emulation.setDeviceMetricsOverride",
                width=size[0],
                height=size[1],
                deviceScaleFactor=1,
                mobile=False,
            )
            first = "".join(f"localStorage.setItem({key!r}, {value!r});" for key, value in storage.items())
            await calls.send("Page.addScriptToEvaluateOnNewDocument", source=first)
            if headers:
                await calls.send("Network.enable")
                await calls.send("Network.setExtraHTTPHeaders", headers=dict(headers))
            await calls.send("Page.navigate", url=url)
            await calls.wait_for(ready, url)
            if prepare:
                await calls.send("Runtime.evaluate", expression=prepare)
                await asyncio.sleep(_SETTLE_S)
                await calls.wait_for(ready, url)
            await asyncio.sleep(_SETTLE_S)
            return base64.b64decode((await calls.send("Page.captureScreenshot", format="png"))["data"])


async def _port(profile: Path) -> int:
    end = time.monotonic() + _TIMEOUT_S
    record = profile / "DevToolsActivePort"
    while time.monotonic() < end:
        if record.exists() and (lines := record.read_text().split()):
            return int(lines[0])
        await asyncio.sleep(0.1)
    raise ReciprocalError(f"Chromium did not start within {_TIMEOUT_S:.0f} s")


class _Calls:
    """Requests and their answers, one at a time; events in between are passed over."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket, self._count = socket, 0

    async def send(self, method: str, **params: Any) -> dict[str, Any]:
        self._count += 1
        await self._socket.send_json({"id": self._count, "method": method, "params": params})
        while True:
            answer = await self._socket.receive_json(timeout=_TIMEOUT_S)
            if answer.get("id") == self._count:
                if "error" in answer:
                    raise ReciprocalError(f"Chromium: {method}: {answer['error']['message']}")
                return answer["result"]

    async def wait_for(self, expression: str, url: str) -> None:
        end = time.monotonic() + _TIMEOUT_S
        while time.monotonic() < end:
            answer = await self.send("Runtime.evaluate", expression=f"Boolean({expression})", returnByValue=True)
            if answer["result"].get("value"):
                return
            await asyncio.sleep(0.5)
        raise ReciprocalError(f"{url} did not show what was waited for within {_TIMEOUT_S:.0f} s: {expression}")
