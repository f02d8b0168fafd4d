"""A real browser without a screen: Chromium as the package PyQt6-WebEngine brings it, driven by its DevTools protocol.

Everything a page does wrong is kept: exceptions, errors and warnings of the console, and requests to any host.
"""

import base64
import contextlib
import importlib.util
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

PATIENCE = 60  # seconds
PROGRAM = """
from PyQt6.QtCore import QUrl
from PyQt6.QtWebEngineWidgets import QWebEngineView
from PyQt6.QtWidgets import QApplication
application = QApplication(["browser"])
view = QWebEngineView()
view.load(QUrl("about:blank"))
view.show()
application.exec()
"""
ENVIRONMENT = {
    "QT_QPA_PLATFORM": "offscreen",
    "QTWEBENGINE_DISABLE_SANDBOX": "1",  # which refuses to run as root
    "QTWEBENGINE_CHROMIUM_FLAGS": "--disable-gpu --disable-dev-shm-usage --remote-allow-origins=* --lang=en",
}
KEYS = {"Enter": ("\r", 13), "Tab": ("", 9), "Escape": ("", 27)}


class Page:
    """The one page of the browser.

    Attributes:
        wrong: what the page did wrong since it was opened.
    """

    def __init__(self, connection: Any):
        self._connection = connection
        self._last = 0
        self.wrong: list[str] = []

    def open(self, path: Path) -> None:
        """Opens a file and waits until its charts are drawn."""
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.command(f"{domain}.enable")
        self.command("Page.navigate", url="about:blank")
        self.wrong.clear()
        self.command("Page.navigate", url=path.resolve().as_uri())
        self.settle()

    def settle(self) -> None:
        """Waits until the view that the address asks for is there, with all its charts."""
        self.wait(
            "document.readyState === 'complete' && document.body.dataset.charts === 'drawn'"
            " && document.body.dataset.address === location.hash"
        )

    def wait(self, condition: str) -> None:
        """Waits until a JavaScript expression is true."""
        end = time.monotonic() + PATIENCE
        while not self.evaluate(f"Boolean({condition})"):
            assert time.monotonic() < end, f"never true: {condition}; {self.wrong}"
            time.sleep(0.02)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression, awaited if it is a promise."""
        answer = self.command("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def texts(self, selector: str) -> list[str]:
        """What the elements say, as it is seen."""
        return self.evaluate(
            f"[...document.querySelectorAll({json.dumps(selector)})].map((e) => (e.innerText ?? e.textContent).trim())"
        )

    def press(self, key: str) -> None:
        """Presses a key on whatever has the focus."""
        text, code = KEYS[key]
        facts = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        self.command("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", text=text, **facts)
        self.command("Input.dispatchKeyEvent", type="keyUp", **facts)

    def click(self, selector: str) -> None:
        """Clicks the first element that fits, with the mouse, in its middle."""
        x, y = self.middle(selector)
        for kind in ("mousePressed", "mouseReleased"):
            self.command("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def point_at(self, selector: str) -> None:
        """Moves the mouse to the first element that fits."""
        x, y = self.middle(selector)
        self.command("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def middle(self, selector: str) -> list[float]:
        """Where the first element that fits is, in pixels of the window, after it was scrolled to."""
        found: list[float] = self.evaluate(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            " e.scrollIntoView({block: 'center'}); const b = e.getClientRects()[0];"
            " return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        )
        return found

    def choose(self, selector: str, value: str) -> None:
        """Gives a form's field a value, as its events tell the page."""
        self.evaluate(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)}); e.value = {json.dumps(value)};"
            " for (const kind of ['input', 'change']) e.dispatchEvent(new Event(kind, {bubbles: true})); })()"
        )
        self.settle()

    def go(self, address: str) -> None:
        """Follows an address within the page."""
        self.evaluate(f"location.hash = {json.dumps(address)}; 0")
        self.settle()

    def arrive(self, address: str) -> None:
        """Waits for a view whose address begins like this."""
        self.wait(f"location.hash.startsWith({json.dumps(address)})")
        self.settle()

    def screen(self, width: int, height: int, *, dark: bool = False, phone: bool = False) -> None:
        """Another screen."""
        self.command(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.command("Emulation.setEmulatedMedia", features=[scheme])

    def shot(self, path: Path) -> None:
        """A picture of the whole page."""
        answer = self.command("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(answer["data"]))

    def command(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the DevTools protocol, and what it answers."""
        self._last += 1
        self._connection.send(json.dumps({"id": self._last, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._connection.recv(timeout=PATIENCE))
            if message.get("id") == self._last:
                assert "error" not in message, f"{method}: {message['error']}"
                found: dict[str, Any] = message["result"]
                return found
            self._note(message.get("method"), message.get("params", {}))

    def _note(self, event: str | None, facts: dict[str, Any]) -> None:
        if event == "Runtime.exceptionThrown":
            self.wrong.append(json.dumps(facts["exceptionDetails"])[:2000])
        elif event == "Runtime.consoleAPICalled" and facts["type"] in ("error", "warning", "assert"):
            self.wrong.append(f"console: {json.dumps(facts['args'])[:2000]}")
        elif event == "Log.entryAdded" and facts["entry"]["level"] in ("error", "warning"):
            self.wrong.append(f"log: {facts['entry']['text']}")
        elif event == "Network.requestWillBeSent":
            address = facts["request"]["url"]
            if not address.startswith(("file:", "data:", "blob:", "about:")):
                self.wrong.append(f"request: {address}")


@contextlib.contextmanager
def browser() -> Iterator[Page]:
    """A browser with an empty page; the test is skipped, with the reason, where none can be started."""
    if importlib.util.find_spec("PyQt6") is None or importlib.util.find_spec("websockets") is None:
        pytest.skip("no browser: pip install 'bob_jax[test]' brings one (PyQt6-WebEngine)")
    from websockets.sync.client import connect

    host = f"127.0.0.1:{_free_port()}"
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    environment |= ENVIRONMENT | {"QTWEBENGINE_REMOTE_DEBUGGING": host}
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen([sys.executable, "-c", PROGRAM], env=environment, stderr=said)
        try:
            address = _page_of(host, process)
            if address is None:  # libraries of the system are missing
                said.seek(0)
                pytest.skip(f"no browser: {said.read()[-500:]}")
            with connect(address, max_size=None, proxy=None, compression=None) as connection:
                yield Page(connection)
        finally:
            process.kill()
            process.wait()


def _free_port() -> int:
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        port: int = place.getsockname()[1]
        return port


def _page_of(host: str, process: subprocess.Popen[bytes]) -> str | None:
    """Address of the DevTools of the first page; None if the browser has ended."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    end = time.monotonic() + PATIENCE
    while process.poll() is None:
        with contextlib.suppress(urllib.error.URLError), opener.open(f"http://{host}/json") as answer:
            for one in json.load(answer):
                if one["type"] == "page":
                    address: str = one["webSocketDebuggerUrl"]
                    return address
        assert time.monotonic() < end, "the browser opens no page"
        time.sleep(0.1)
    return None
