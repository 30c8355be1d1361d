"""A real browser for tests: headless Chromium, spoken to in the DevTools protocol over its websocket.

`Browser` owns the process and one profile directory; `Tab` is one page, which notes every request it made, everything
it wrote to the console and every script error, so that a test can ask for them.
Protocol: https://chromedevtools.github.io/devtools-protocol/
"""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
from pathlib import Path
from typing import Any

import aiohttp

START_S_MAX = 60.0
ANSWER_S_MAX = 60.0
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

_OPTIONS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
)


class BrowserError(Exception):
    """The browser refused a command, or a script in the page threw."""


class Browser:
    """One Chromium process. `start`, then any number of `open`, then `close`."""

    def __init__(self, profile: Path) -> None:
        self._profile = profile
        self._process: asyncio.subprocess.Process | None = None
        self._session: aiohttp.ClientSession | None = None
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self._reader: asyncio.Task[None] | None = None
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._tabs: dict[str, Tab] = {}
        self._number = 0

    async def start(self) -> None:
        if CHROMIUM is None:
            raise BrowserError("chromium is not installed")
        self._process = await asyncio.create_subprocess_exec(
            CHROMIUM,
            *_OPTIONS,
            f"--user-data-dir={self._profile}",
            "about:blank",
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        async with asyncio.timeout(START_S_MAX):
            port, path = await self._door()
        self._session = aiohttp.ClientSession()
        self._socket = await self._session.ws_connect(f"ws://127.0.0.1:{port}{path}", max_msg_size=0)
        self._reader = asyncio.create_task(self._read(self._socket))

    async def _door(self) -> tuple[str, str]:
        """Where it listens; Chromium writes that into its profile once it does."""
        note = self._profile / "DevToolsActivePort"
        while True:
            if self._process is not None and self._process.returncode is not None:
                raise BrowserError(f"chromium ended with status {self._process.returncode}")
            lines = note.read_text().splitlines() if note.exists() else []
            if len(lines) == 2:
                return lines[0], lines[1]
            await asyncio.sleep(0.05)

    async def close(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.wait([self._reader])
        if self._socket is not None:
            await self._socket.close()
        if self._session is not None:
            await self._session.close()
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()
            try:
                async with asyncio.timeout(10):
                    await self._process.wait()
            except TimeoutError:
                self._process.kill()
                await self._process.wait()

    async def open(self, width: int = 1280, height: int = 900, dark: bool = False, script: str = "") -> Tab:
        """A new tab of the given size, in CSS pixels. `script` runs in every document before its own scripts.

        It has a window of its own: a tab behind another one would be hidden, and a page may rest then.
        """
        target = await self.send("Target.createTarget", url="about:blank", newWindow=True)
        attached = await self.send("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        tab = Tab(self, attached["sessionId"])
        self._tabs[attached["sessionId"]] = tab
        for domain in ("Page", "Runtime", "Network", "Log"):
            await tab.send(f"{domain}.enable")
        await tab.resize(width, height)
        await tab.prefer(dark=dark)
        if script:
            await tab.send("Page.addScriptToEvaluateOnNewDocument", source=script)
        return tab

    def tabs(self) -> list[Tab]:
        """Those that are open."""
        return list(self._tabs.values())

    async def forget(self, session: str) -> None:
        """Close the tab of a session."""
        del self._tabs[session]
        await self.send("Page.close", session)

    async def send(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        if self._socket is None:
            raise BrowserError("the browser was not started")
        self._number += 1
        number = self._number
        answer = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        command = {"id": number, "method": method, "params": parameters} | ({"sessionId": session} if session else {})
        await self._socket.send_json(command)
        async with asyncio.timeout(ANSWER_S_MAX):
            return await answer

    async def _read(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        async for message in socket:
            if message.type is not aiohttp.WSMsgType.TEXT:
                break
            told = json.loads(message.data)
            if "id" in told:
                self._settle(told)
            elif (tab := self._tabs.get(told.get("sessionId", ""))) is not None:
                tab.note(told["method"], told["params"])
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(BrowserError("the browser is gone"))

    def _settle(self, told: dict[str, Any]) -> None:
        answer = self._waiting.pop(told["id"])
        if answer.done():
            return
        if "error" in told:
            answer.set_exception(BrowserError(told["error"]["message"]))
        else:
            answer.set_result(told["result"])


class Tab:
    """One page of a browser."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser = browser
        self._session = session
        self.requests: list[str] = []
        """URLs that were asked for, whether or not an answer came."""
        self.complaints: list[str] = []
        """Console output, script errors, and what the browser itself logged (refused content, failed loads)."""

    async def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        return await self._browser.send(method, self._session, **parameters)

    def note(self, method: str, told: dict[str, Any]) -> None:
        """Keep what a test may ask for."""
        if method == "Network.requestWillBeSent":
            self.requests.append(told["request"]["url"])
        elif method == "Runtime.consoleAPICalled":
            self.complaints.append(" ".join(str(argument.get("value")) for argument in told["args"]))
        elif method == "Runtime.exceptionThrown":
            details = told["exceptionDetails"]
            self.complaints.append(details.get("exception", {}).get("description", details["text"]))
        elif method == "Log.entryAdded":
            self.complaints.append(f"{told['entry']['text']} {told['entry'].get('url', '')}")

    async def close(self) -> None:
        await self._browser.forget(self._session)

    async def goto(self, url: str) -> None:
        answer = await self.send("Page.navigate", url=url)
        if answer.get("errorText"):
            raise BrowserError(answer["errorText"])

    async def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        answer = await self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise BrowserError(answer["exceptionDetails"].get("exception", {}).get("description", "script error"))
        return answer["result"].get("value")

    async def wait_until(self, expression: str, seconds: float = 30.0) -> Any:
        """Evaluate until the value is true; fails with the page's text when it never is."""
        deadline = asyncio.get_running_loop().time() + seconds
        while True:
            try:
                value = await self.evaluate(expression)
            except BrowserError as error:  # the document may be about to be replaced
                value = None
                trouble = f"{error}"
            else:
                trouble = ""
            if value:
                return value
            if asyncio.get_running_loop().time() > deadline:
                text = await self.evaluate("document.body && document.body.innerText")
                raise AssertionError(f"never true in {seconds} s: {expression} {trouble}\nThe page reads:\n{text}")
            await asyncio.sleep(0.05)

    async def text(self, selector: str) -> str:
        """What a reader sees of the first element that matches; empty where there is none."""
        return str(await self.evaluate(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''"))

    async def resize(self, width: int, height: int) -> None:
        await self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=2, mobile=width < 600
        )

    async def prefer(self, *, dark: bool = False, reduced_motion: bool = False) -> None:
        features = [
            {"name": "prefers-color-scheme", "value": "dark" if dark else "light"},
            {"name": "prefers-reduced-motion", "value": "reduce" if reduced_motion else "no-preference"},
        ]
        await self.send("Emulation.setEmulatedMedia", features=features)

    async def screenshot(self, path: Path) -> None:
        """The whole page, as PNG."""
        shot = await self.send("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))
