"""Opens pages in headless Chromium, at several widths and in light and dark, and checks what a
person would see: no text overlaps another or leaves the page, every figure has a name, nothing is
written to the console, and nothing is requested from anywhere.

    look.py [--pictures FOLDER] [--height PIXELS] [--widths 360,1280] PAGE...

Prints a line for each page, and what is wrong with it. Exit code 1: something is wrong. Needs
Debian's `chromium` and PyPI's `websocket-client`.
"""

import argparse
import base64
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request

import websocket

# Collects the boxes of all texts, and compares them with each other and with the page.
CHECK = r"""
(() => {
  const texts = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node; (node = walker.nextNode()); ) {
    const parent = node.parentElement;
    if (!node.textContent.trim() || parent.closest("script,style")) continue;
    const style = getComputedStyle(parent);
    if (style.visibility === "hidden" || style.display === "none") continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    for (const box of range.getClientRects()) {
      if (box.width < 1 || box.height < 1) continue;
      texts.push({
        node, text: node.textContent.trim().slice(0, 40), scrolls: parent.closest(".scroll"),
        left: box.left, right: box.right, top: box.top + scrollY, bottom: box.bottom + scrollY,
      });
    }
  }
  const width = document.documentElement.clientWidth;
  const faults = [];
  texts.sort((one, other) => one.top - other.top);
  texts.forEach((one, place) => {
    if ((one.left < 0 || one.right > width + 0.5) && !one.scrolls)
      faults.push(`"${one.text}" leaves the page`);
    for (const other of texts.slice(place + 1)) {
      if (other.top >= one.bottom - 1) break;
      if (one.node === other.node) continue;
      const across = Math.min(one.right, other.right) - Math.max(one.left, other.left);
      const down = Math.min(one.bottom, other.bottom) - Math.max(one.top, other.top);
      if (across > 1 && down > 3) faults.push(`"${one.text}" overlaps "${other.text}"`);
    }
  });
  const figures = [...document.querySelectorAll(".area svg")];
  for (const figure of figures)
    if (figure.getAttribute("role") !== "img" || !figure.getAttribute("aria-label"))
      faults.push("a figure has no name");
  if (document.documentElement.scrollWidth > width) faults.push("the page scrolls sideways");
  return { faults, texts: texts.length, figures: figures.length,
           height: document.documentElement.scrollHeight };
})()
"""

# The events that mean that something was written to the console.
CONSOLE = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")

DEADLINE_S = 60


class Browser:
    """Headless Chromium, by the DevTools protocol."""

    def __init__(self):
        self.profile = tempfile.mkdtemp()
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0",
                   "--remote-allow-origins=*", f"--user-data-dir={self.profile}",
                   "--hide-scrollbars", "about:blank"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(["chromium", *options], **quiet)
        self.number = 0
        self.events = []
        self.socket = websocket.create_connection(self.address(), timeout=DEADLINE_S)
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def address(self):
        """Returns the address of the first tab, as soon as the browser has one."""
        port_file = pathlib.Path(self.profile) / "DevToolsActivePort"
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            try:
                port = port_file.read_text().splitlines()[0]
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/json") as answer:
                    tabs = [tab for tab in json.load(answer) if tab["type"] == "page"]
                return tabs[0]["webSocketDebuggerUrl"]
            except (OSError, IndexError, ValueError):
                time.sleep(0.1)
        raise TimeoutError("chromium has not started")

    def call(self, method, **params):
        self.number += 1
        self.socket.send(json.dumps({"id": self.number, "method": method, "params": params}))
        while True:
            message = json.loads(self.socket.recv())
            if message.get("id") == self.number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']}")
                return message["result"]
            self.events.append(message)

    def value(self, expression):
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        return result["result"]["value"]

    def open(self, page, width, scheme):
        self.events.clear()
        self.resize(width, 900)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", features=features)
        self.call("Page.navigate", url=page.as_uri())
        deadline = time.monotonic() + DEADLINE_S
        while not self.has_loaded():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{page} does not load")
            time.sleep(0.05)

    def has_loaded(self):
        is_complete = self.value("document.readyState") == "complete"
        return is_complete and any(e["method"] == "Page.loadEventFired" for e in self.events)

    def resize(self, width, height):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height,
                  deviceScaleFactor=1, mobile=False)

    def faults_of_events(self, page):
        faults = []
        for event in self.events:
            if event["method"] == "Network.requestWillBeSent":
                url = event["params"]["request"]["url"]
                if url != page.as_uri() and not url.startswith("data:"):
                    faults.append(f"it requests {url}")
            elif event["method"] in CONSOLE:
                faults.append("the console has " + json.dumps(event["params"])[:300])
        return faults

    def picture(self, path, width, height):
        self.resize(width, height)
        shot = self.call("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(shot["data"]))

    def close(self):
        self.process.terminate()
        self.process.wait()
        shutil.rmtree(self.profile, ignore_errors=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--pictures", type=pathlib.Path)
    parser.add_argument("--height", type=int)
    parser.add_argument("--widths", default="360,480,768,1024,1280,1600")
    parser.add_argument("pages", nargs="+", type=pathlib.Path)
    arguments = parser.parse_args()
    browser = Browser()
    count = 0
    try:
        for page in [page.resolve() for page in arguments.pages]:
            for scheme in ("light", "dark"):
                for width in map(int, arguments.widths.split(",")):
                    browser.open(page, width, scheme)
                    found = browser.value(CHECK)
                    faults = found["faults"] + browser.faults_of_events(page)
                    print(f"{page.stem}, {scheme}, {width} px: {found['texts']} texts, "
                          f"{found['figures']} figures, {len(faults)} faults")
                    for fault in faults[:20]:
                        print("   ", fault)
                    count += len(faults)
                    if arguments.pictures:
                        name = f"{page.stem}-{scheme}-{width}.png"
                        height = arguments.height or found["height"]
                        browser.picture(arguments.pictures / name, width, height)
    finally:
        browser.close()
    sys.exit(1 if count else 0)


main()
