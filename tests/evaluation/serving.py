"""A running `crosstalk serve`, requests to it as a stranger sends them, and videos to give it."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

import psutil

from datasets.media import encode, read_frames
from engine.run import PROJECT

PATIENCE = 240.0  # seconds; nothing is measured by it


class Server:
    """A process of its own whose uploads lie in `folder`."""

    def __init__(self, folder: Path, *settings: str):
        self.folder = folder
        folder.mkdir()
        self._errors = (folder.parent / "errors.txt").open("w+")
        environment = os.environ | {"TMPDIR": str(folder), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "crosstalk", "serve", "port=0", "device=cpu", *settings], cwd=PROJECT,
            env=environment, stdout=subprocess.PIPE, stderr=self._errors, text=True)  # fmt: skip
        self.said = self.process.stdout.readline()
        assert self.said, self.errors
        self.port = int(re.search(r"http://127\.0\.0\.1:(\d+)/ is ready", self.said)[1])
        self.address = f"http://127.0.0.1:{self.port}"

    @property
    def errors(self) -> str:
        self._errors.seek(0)
        return self._errors.read()

    def ask(self, method: str, path: str, body: bytes | Iterator[bytes] | None = None,
            **headers: str) -> tuple[int, http.client.HTTPMessage, bytes]:  # fmt: skip
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            said = {name.replace("_", "-"): value for name, value in headers.items()}
            in_pieces = body is not None and not isinstance(body, bytes)
            if in_pieces:
                said["Transfer-Encoding"] = "chunked"
            connection.request(method, path, body, said, encode_chunked=in_pieces)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()

    def send(self, video: Path, name: str = "a.mp4") -> str:
        status, _, body = self.ask("POST", "/videos", video.read_bytes(), X_Name=quote(name))
        assert status == 201, body
        return json.loads(body)["number"]

    @contextmanager
    def listening(self, number: str) -> Iterator[Iterator[dict]]:
        """What a page is told of a video, for as long as it is open."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        connection.request("GET", f"/videos/{number}/progress")
        answer = connection.getresponse()
        assert answer.status == 200 and answer.headers["content-type"].startswith("text/event-stream")
        try:
            yield (json.loads(line[5:]) for line in answer if line.startswith(b"data:"))
        finally:
            answer.close()
            connection.close()

    def outcome(self, number: str) -> dict:
        with self.listening(number) as told:
            *_, last = told
        return last

    def begin_upload(self) -> socket.socket:
        """Half of a video."""
        sending = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)
        sending.sendall(b"POST /videos HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 20000\r\n\r\n" + b"x" * 10_000)
        return sending

    @property
    def kept(self) -> list[Path]:
        """Files that it holds."""
        return [path for path in self.folder.rglob("*") if path.is_file()]

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Judging takes as long as this lasts: its process is stopped, which killing it ends as well."""
        worker = self._worker()
        worker.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            if worker.is_running():
                worker.send_signal(signal.SIGCONT)

    def _worker(self) -> psutil.Process:
        while True:  # until one that was killed is replaced
            for child in psutil.Process(self.process.pid).children():
                with suppress(psutil.Error):  # a zombie
                    if any("spawn_main" in word for word in child.cmdline()):
                        return child
            time.sleep(0.05)

    def end(self, number: int = signal.SIGINT) -> str:
        """What it says as it ends."""
        self.process.send_signal(number)
        said, _ = self.process.communicate(timeout=PATIENCE)
        return said


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def named(video: Path, path: Path, **metadata: str) -> Path:
    """The same pictures under another name, with what a container can say beside them."""
    encode(path.with_name("plain.mp4"), (frame.rgb() for frame in read_frames(video)), metadata=metadata)
    return path.with_name("plain.mp4").rename(path)
