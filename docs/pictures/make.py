"""Makes the pictures of the documents from a real run of a minute: the live view on a terminal, and
the page of `upcase report --format html`. The server stops for a second in the middle of the run.

    cargo build --release && python3 docs/pictures/make.py

Needs tmux, chromium, and PyPI's websocket-client.
"""

import html
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
PROGRAM = ROOT / "target" / "release" / "upcase"
LOOK = ROOT / "tests" / "browser" / "look.py"

COLUMNS, ROWS = 84, 12
SESSION = f"upcase-picture-{os.getpid()}"
RUN = "--connections 200 --rate 5000 --duration 60s"

# The part of the page that is shown, in pixels from its top.
PAGE_HEIGHT = 2750

COLORS = {"31": "#d1242f", "32": "#1a7f37", "33": "#9a6700", "34": "#0969da", "36": "#1b7c83",
          "1": None, "2": "#656d76"}

TERMINAL = """<!DOCTYPE html><meta charset="utf-8"><title>upcase load</title>
<style>body{{margin:0;background:#fff;color:#1f2328}}
@media (prefers-color-scheme: dark){{body{{background:#0d1117;color:#e6edf3}}}}
pre{{margin:16px;font:15px/1.35 "DejaVu Sans Mono",monospace}}</style>
<body><pre>{}</pre>"""


def start_server():
    """Starts a server; returns it, and its address."""
    arguments = [PROGRAM, "serve", "--listen", "127.0.0.1:0"]
    server = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                              text=True)
    return server, server.stdout.readline().split()[-1]


def tmux(*arguments):
    return subprocess.run(["tmux", *arguments], check=True, capture_output=True, text=True).stdout


def as_html(screen):
    """Returns what a terminal shows, with its colours, as the content of an element."""
    parts = []
    color = None
    for part in re.split(r"(\x1b\[[0-9;]*m)", screen.rstrip("\n")):
        code = re.fullmatch(r"\x1b\[([0-9;]*)m", part)
        if code:
            known = [COLORS.get(number) for number in code[1].split(";")]
            color = next((name for name in known if name), None)
        elif part:
            text = html.escape(part)
            parts.append(f'<span style="color:{color}">{text}</span>' if color else text)
    return "".join(parts)


def picture(page, name, width, height):
    with tempfile.TemporaryDirectory() as folder:
        options = ["--pictures", folder, "--widths", str(width), "--height", str(height)]
        subprocess.run([sys.executable, LOOK, *options, page], check=True)
        for scheme in ("light", "dark"):
            found = pathlib.Path(folder) / f"{page.stem}-{scheme}-{width}.png"
            (HERE / f"{name}-{scheme}.png").write_bytes(found.read_bytes())


def main():
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        server, address = start_server()
        record = folder / "record"
        command = f"{PROGRAM} load {address} {RUN} --record {record}"
        tmux("new-session", "-d", "-s", SESSION, "-x", str(COLUMNS), "-y", str(ROWS), command)
        try:
            time.sleep(30)
            server.send_signal(signal.SIGSTOP)
            time.sleep(1)
            server.send_signal(signal.SIGCONT)
            time.sleep(15)
            screen = tmux("capture-pane", "-e", "-p", "-t", SESSION)
            while subprocess.run(["tmux", "has-session", "-t", SESSION],
                                 capture_output=True).returncode == 0:
                time.sleep(0.2)
        finally:
            subprocess.run(["tmux", "kill-session", "-t", SESSION], capture_output=True)
            server.terminate()
            server.wait()
        live = folder / "live.html"
        live.write_text(TERMINAL.format(as_html(screen)))
        picture(live, "live", 800, 160)
        page = folder / "page.html"
        with page.open("w") as file:
            report = [PROGRAM, "report", record, "--format", "html"]
            if subprocess.run(report, stdout=file).returncode not in (0, 1, 4):
                sys.exit("the report could not be made")
        picture(page, "page", 1000, PAGE_HEIGHT)


main()
