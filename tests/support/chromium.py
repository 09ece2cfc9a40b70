"""A headless Chromium, driven by the DevTools protocol over a pair of pipes."""

import base64
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--remote-debugging-pipe",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)


class Page:
    """A page of the browser; `requests` are the URLs it asked for, `complaints` its errors."""

    def __init__(self, commands: int, answers: Any) -> None:
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self._commands = commands
        self._answers = answers
        self._number = 0
        self._session: dict[str, str] = {}
        self._password = ""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self._session = {"sessionId": session}
        for domain in ("Network", "Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: object) -> dict[str, Any]:
        number = self._send(method, **parameters)
        while (message := self._read()).get("id") != number:
            self._note(message)
        assert "error" not in message, f"{method}: {message['error']}"
        result: dict[str, Any] = message["result"]
        return result

    def log_in(self, password: str) -> None:
        """Answer whenever a server asks for a password, as somebody does who knows it."""
        self._password = password
        self.call("Fetch.enable", handleAuthRequests=True)

    def open(self, place: Path | str, width: int, *, dark: bool = False) -> None:
        """Load a file or a URL in a window of that width and wait for its load event."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=place if isinstance(place, str) else place.as_uri())
        while (message := self._read()).get("method") != "Page.loadEventFired":
            self._note(message)

    def evaluate(self, expression: str) -> Any:
        """Return what a JavaScript expression, or the promise that it is, comes to."""
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def screenshot(self, path: Path) -> None:
        """Take a picture of the whole page."""
        answer = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(answer["data"]))

    def _send(self, method: str, **parameters: object) -> int:
        self._number += 1
        command = {"id": self._number, "method": method, "params": parameters} | self._session
        os.write(self._commands, json.dumps(command).encode() + b"\0")
        return self._number

    def _note(self, message: dict[str, Any]) -> None:
        parameters = message.get("params", {})
        match message.get("method"):
            case "Network.requestWillBeSent":
                self.requests.append(parameters["request"]["url"])
            case "Log.entryAdded":
                self.complaints.append(parameters["entry"]["text"])
            case "Runtime.exceptionThrown":
                self.complaints.append(parameters["exceptionDetails"]["text"])
            case "Fetch.requestPaused":
                self._send("Fetch.continueRequest", requestId=parameters["requestId"])
            case "Fetch.authRequired":
                answer = {"response": "ProvideCredentials", "username": "x", "password": self._password}
                self._send("Fetch.continueWithAuth", requestId=parameters["requestId"], authChallengeResponse=answer)

    def _read(self) -> dict[str, Any]:
        data = bytearray()
        while (byte := self._answers.read(1)) != b"\0":
            assert byte, "chromium is gone"
            data += byte
        message: dict[str, Any] = json.loads(data)
        return message


@contextmanager
def open_chromium(profile: Path) -> Iterator[Page]:
    """Start a browser with an empty profile and yield its page."""
    command_read, command_write = os.pipe()
    answer_read, answer_write = os.pipe()
    # The browser takes its commands at descriptor 3 and answers at 4.
    shell = f'exec chromium "$@" 3<&{command_read} 4>&{answer_write}'
    process = subprocess.Popen(
        ["bash", "-c", shell, "bash", *ARGUMENTS, f"--user-data-dir={profile}"],
        pass_fds=(command_read, answer_write),
        stderr=subprocess.DEVNULL,
    )
    os.close(command_read)
    os.close(answer_write)
    with os.fdopen(answer_read, "rb") as answers:
        try:
            yield Page(command_write, answers)
        finally:
            os.close(command_write)  # the browser ends with its pipe
            process.wait(30)
