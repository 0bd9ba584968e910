"""A headless Chromium, controlled by chromedriver over the WebDriver protocol."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


class Browser:
    """A browser session. `profile` is an empty folder; `width` and `height` are in pixels."""

    def __init__(self, profile: Path, width: int = 1200, height: int = 900) -> None:
        chromium = next((p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None)
        driver = shutil.which("chromedriver")
        if not chromium or not driver:
            pytest.skip("needs chromium and chromedriver on the PATH")
        self.driver = subprocess.Popen(
            [driver, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self.driver.stdout
        for line in self.driver.stdout:
            if "successfully on port " in line:
                self.address = f"http://127.0.0.1:{line.split('on port ')[1].strip().rstrip('.')}"
                break
        options = {
            "binary": chromium,
            "args": [*FLAGS, f"--user-data-dir={profile}", f"--window-size={width},{height}"],
            "mobileEmulation": {"deviceMetrics": {"width": width, "height": height, "pixelRatio": 1, "touch": False}},
        }
        capabilities = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        self.session = ""
        self.session = (
            "/session/" + self._post("/session", {"capabilities": {"alwaysMatch": capabilities}})["sessionId"]
        )

    def _request(self, method: str, path: str, content: Any = None) -> Any:
        body = None if content is None else json.dumps(content).encode()
        request = urllib.request.Request(self.address + self.session + path, body, method=method)
        request.add_header("Content-Type", "application/json")
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as answer:
            return json.load(answer)["value"]

    def _post(self, path: str, content: Any) -> Any:
        return self._request("POST", path, content)

    def open(self, path: Path) -> None:
        self._post("/url", {"url": path.resolve().as_uri()})

    def run(self, script: str, *arguments: Any) -> Any:
        """Run a script in the page and return its value."""
        return self._post("/execute/sync", {"script": script, "args": list(arguments)})

    def click(self, selector: str) -> None:
        """Scroll to an element and click at its middle, as a user would."""
        element = self._post("/element", {"using": "css selector", "value": selector})
        self._post(f"/element/{next(iter(element.values()))}/click", {})

    def emulate(self, width: int, scheme: str) -> None:
        """Show the page `width` pixels wide, in the colours of a `light` or a `dark` desktop."""
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        colours = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        for command, parameters in (("setDeviceMetricsOverride", metrics), ("setEmulatedMedia", colours)):
            self._post("/goog/cdp/execute", {"cmd": f"Emulation.{command}", "params": parameters})

    def console(self) -> list[str]:
        """The warnings and errors since the session began."""
        time.sleep(0.1)
        entries = self._post("/se/log", {"type": "browser"})
        return [e["message"] for e in entries if e["level"] in ("WARNING", "SEVERE")]

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self._request("GET", "/screenshot")))

    def close(self) -> None:
        try:
            if self.session:
                self._request("DELETE", "")
        finally:
            self.driver.terminate()
            self.driver.wait(10)
            if self.driver.stdout:
                self.driver.stdout.close()
