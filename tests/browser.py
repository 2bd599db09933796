"""A headless Chromium, driven over its own DevTools protocol: pages as a person has them, with mouse and keyboard."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import connect

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")
PATIENCE = 120.0  # seconds; nothing is measured by it


class Page:
    def __init__(self, address: str):
        self._socket = connect(address, max_size=None, open_timeout=PATIENCE)
        self._number = 0
        self._contexts: dict[str, int] = {}  # frame -> where its scripts run
        self.dialogs: list[str] = []  # that some script opened
        self.errors: list[str] = []  # of scripts, and what a policy refused
        self.requests: list[str] = []  # addresses that were asked for
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv(timeout=PATIENCE))
            if message.get("id") == self._number:
                assert "error" not in message, (method, message)
                return message["result"]
            self._note(message.get("method", ""), message.get("params", {}))

    def _note(self, event: str, values: dict[str, Any]) -> None:
        if event == "Page.javascriptDialogOpening":
            self.dialogs.append(values["message"])
            self._number += 1  # its answer is not waited for: the page is, until then, at a stop
            self._socket.send(json.dumps({"id": self._number, "method": "Page.handleJavaScriptDialog",
                                          "params": {"accept": False}}))  # fmt: skip
        elif event == "Runtime.exceptionThrown":
            self.errors.append(str(values["exceptionDetails"].get("exception", {}).get("description")))
        elif event == "Log.entryAdded" and values["entry"]["level"] == "error":
            self.errors.append(values["entry"]["text"])
        elif event == "Network.requestWillBeSent":
            self.requests.append(values["request"]["url"])
        elif event == "Runtime.executionContextCreated":
            context = values["context"]
            if context["auxData"].get("isDefault"):
                self._contexts[context["auxData"]["frameId"]] = context["id"]

    def open(self, address: str) -> None:
        self._contexts.clear()
        self.call("Page.navigate", url=address)
        self.until("document.readyState === 'complete'")

    def value(self, script: str, frame: str | None = None) -> Any:
        """Of an expression, in the page or in one of its frames."""
        where = {} if frame is None else {"contextId": self._contexts[frame]}
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True, **where)
        assert "exceptionDetails" not in result, (script, result)
        return result["result"].get("value")

    def until(self, script: str, frame: str | None = None) -> None:
        deadline = time.monotonic() + PATIENCE
        while not self.value(f"Boolean({script})", frame):
            assert time.monotonic() < deadline, f"in vain: {script}\n{self.value('document.body.innerText')}"
            time.sleep(0.05)

    def frame(self) -> str:
        """The one frame within the page, once it is loaded."""
        deadline = time.monotonic() + PATIENCE
        while True:
            children = self.call("Page.getFrameTree")["frameTree"].get("childFrames", [])
            inner = children[0]["frame"] if children else {"id": "", "url": "about:blank"}
            if inner["url"] != "about:blank" and inner["id"] in self._contexts:
                with suppress(AssertionError, KeyError):
                    if self.value("document.readyState === 'complete'", inner["id"]):
                        return inner["id"]
            assert time.monotonic() < deadline, "no frame was loaded"
            time.sleep(0.05)

    def choose(self, selector: str, *files: Path) -> None:
        """As a person does in the file dialog."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", files=[str(file) for file in files], nodeId=node)

    def click(self, selector: str, frame: str | None = None) -> None:
        """A real click of the mouse on the middle of it."""
        middle = "(() => {{ const box = document.querySelector({}).getBoundingClientRect(); return {} }})()"
        centre = "[box.left + box.width / 2, box.top + box.height / 2]"
        scroll = f"document.querySelector({json.dumps(selector)}).scrollIntoView({{block: 'center'}})"
        self.value(scroll, frame)
        if frame is not None:
            self.value("document.querySelector('iframe').scrollIntoView({block: 'center'})")
        x, y = self.value(middle.format(json.dumps(selector), centre), frame)
        if frame is not None:
            left, top = self.value(middle.format("'iframe'", "[box.left, box.top]"))
            x, y = x + left, y + top
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def drop(self, selector: str, *files: Path) -> None:
        """Dragged here from the desktop."""
        box = f"document.querySelector({json.dumps(selector)}).getBoundingClientRect()"
        x, y = self.value(f"[{box}.left + 20, {box}.top + 20]")
        dragged = {"items": [], "files": [str(file) for file in files], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.call("Input.dispatchDragEvent", type=kind, x=x, y=y, data=dragged)

    def press(self, key: str, code: int) -> None:
        for kind in ("rawKeyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def screenshot(self, path: Path, width: int = 1100, height: int = 0) -> None:
        """Of the whole page, or of so much of it."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height or 800, deviceScaleFactor=1,
                  mobile=False)  # fmt: skip
        tall = self.call("Page.getLayoutMetrics")["cssContentSize"]["height"]
        clip = {"x": 0, "y": 0, "width": width, "height": height or tall, "scale": 1}
        data = self.call("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)["data"]
        path.write_bytes(base64.b64decode(data))

    def close(self) -> None:
        self._socket.close()


@contextmanager
def browser(*flags: str) -> Iterator[Page]:
    """One page in a Chromium of its own, with nothing of anybody's settings."""
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
             "--disable-background-networking", "--disable-component-update", "--remote-debugging-port=0",
             # A frame without rights would get a process, and so a protocol connection, of its own.
             "--disable-features=IsolateSandboxedIframes", f"--user-data-dir={profile}", *flags, "about:blank"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
        try:
            page = Page(_address(Path(profile), process))
            yield page
            page.close()
        finally:
            process.kill()
            process.wait()


def _address(profile: Path, process: subprocess.Popen) -> str:
    """Of the page's own connection."""
    deadline = time.monotonic() + PATIENCE
    while True:
        with suppress(OSError, ValueError, StopIteration, IndexError):
            port, path = (profile / "DevToolsActivePort").read_text().split("\n")[:2]
            with connect(f"ws://127.0.0.1:{port}{path}") as socket:
                socket.send(json.dumps({"id": 1, "method": "Target.getTargets"}))
                targets = json.loads(socket.recv(timeout=PATIENCE))["result"]["targetInfos"]
            target = next(one["targetId"] for one in targets if one["type"] == "page")
            return f"ws://127.0.0.1:{port}/devtools/page/{target}"
        assert process.poll() is None, "Chromium ended"
        assert time.monotonic() < deadline, "Chromium does not answer"
        time.sleep(0.1)
