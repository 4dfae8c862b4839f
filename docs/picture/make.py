#!/usr/bin/env python3
"""Draws cancel.svg, the picture in the README, from demo.txt, a recording of `cargo run --example demo`.

    python3 docs/picture/make.py             draw the picture from the recording
    python3 docs/picture/make.py --record    run the demo, write the recording anew, and draw
    python3 docs/picture/make.py --check     fail if the picture is not the one that the recording gives

Each line of the recording is a time in seconds from the start of its part, a tab, and a line that the demo printed. A fact
is only drawn if the demo has checked it and said so.
"""

import pathlib
import re
import subprocess
import sys
import time
from html import escape

HERE = pathlib.Path(__file__).resolve().parent
RECORDING, PICTURE = HERE / "demo.txt", HERE / "cancel.svg"

WIDTH, EDGE, COLUMN = 800, 16, 192
LANE, TOP = 100, 48
STYLE = """
  text { font: 12.5px system-ui, 'DejaVu Sans', sans-serif; fill: #1f2328 }
  .card { fill: #ffffff; stroke: #d0d7de }
  .dim { fill: #59636e } .head { font-weight: 600 } .bad { fill: #c4232f } .good { fill: #1a7f37 }
  .held { fill: #9a6700 } .left { fill: #c4232f } .free { fill: #1a7f37 }
  .on { fill: #ffffff; font-size: 11px }
  @media (prefers-color-scheme: dark) {
    text { fill: #f0f6fc } .card { fill: #0d1117; stroke: #3d444d }
    .dim { fill: #9198a1 } .bad { fill: #ff7b72 } .good { fill: #56d364 }
    .held { fill: #9e6a03 } .left { fill: #b62324 } .free { fill: #238636 }
  }
"""


def record():
    """Runs the demo and writes what it prints, with the times."""
    command = ["cargo", "run", "--quiet", "--locked", "--example", "demo"]
    demo = subprocess.Popen(command, cwd=HERE.parent.parent, stdout=subprocess.PIPE, text=True)
    lines, began = [], None
    for line in demo.stdout:
        if re.match(r"\d\. ", line):
            began = time.monotonic()
        elif line.startswith("In short"):
            began = None
        if began and line.strip():
            lines.append(f"{time.monotonic() - began:.2f}\t{line}")
    if demo.wait() != 0:
        sys.exit("the demo failed")
    RECORDING.write_text("".join(lines))


class Part:
    """One part of the recording: a title, and lines with their times."""

    def __init__(self, title):
        self.title, self.lines = title, []

    def find(self, pattern):
        """The time of the first line with this pattern, and the match."""
        for at, text in self.lines:
            if found := re.search(pattern, text):
                return at, found
        sys.exit(f"“{self.title}” of the recording has no “{pattern}”")

    def next_plan(self):
        """The beginning of what the next plan said."""
        return self.find(r"\| (?:Error: )?(Error .*|Plan: [^,]*|No changes)")[1][1]


def parts():
    found = []
    for line in RECORDING.read_text().splitlines():
        at, text = line.split("\t", 1)
        if title := re.match(r"\d\. (.*)", text):
            found.append(Part(title[1]))
        else:
            found[-1].lines.append((float(at), text))
    return found


def lanes():
    """Each lane of the picture: title; four pairs of lines; how the lock is called in each column; how it ended."""
    bare, graceful, stuck = parts()

    bare.find("✓ Terraform is applying and holds the lock")
    cancelled, over = bare.find("cancel: SIGINT to the step's process")[0], bare.find("✓ the step is over")[0]
    bare.find("✓ its Terraform was still running and is killed with the job")
    bare.find("✓ the lock is left behind")
    yield (
        bare.title,
        [
            ("terraform apply", "takes the lock"),
            ("cancel: the shell", "gets SIGINT and SIGTERM"),
            (f"{over - cancelled:.1f} s later: the step ends,", "the job kills Terraform"),
            ("the next terraform plan:", bare.next_plan()),
        ],
        ["held", "held", "left", "left"],
        "bad",
    )

    graceful.find("✓ Terraform was interrupted, once")
    graceful.find("✓ Terraform released its lock itself")
    took = graceful.find(r"terraform ended with exit code 1, (.*) after its interrupt")[1][1]
    yield (
        graceful.title,
        [
            ("exec tfguard -- terraform", "apply takes the lock"),
            ("cancel: tfguard gives", "Terraform one interrupt"),
            (f"{took} later: Terraform ends", "and releases its lock"),
            ("the next terraform plan:", graceful.next_plan()),
        ],
        ["held", "held", "free", "free"],
        "good",
    )

    stuck.find("✓ Terraform was interrupted, once")
    took = stuck.find(r"terraform did not end in time and was killed, (\d+)s.* after its interrupt")[1][1]
    stuck.find("✓ tfguard deleted the lock that Terraform left")
    yield (
        stuck.title,
        [
            (f"exec tfguard --grace {took}s", "-- terraform apply"),
            ("cancel: tfguard gives", "Terraform one interrupt"),
            (f"{took} s later: tfguard kills it,", "then deletes its lock"),
            ("the next terraform plan:", stuck.next_plan()),
        ],
        ["held", "held", "free", "free"],
        "good",
    )


def draw():
    """The picture as text."""
    text = lambda x, y, words, kind="": f'<text x="{x}" y="{y}" class="{kind}">{escape(words)}</text>'
    found = list(lanes())
    height = TOP + LANE * len(found)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img"'
        ' aria-label="Three cancelled applies. Without tfguard the lock stays; with tfguard it is released.">',
        f"<style>{STYLE}</style>",
        f'<rect class="card" x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="8"/>',
        text(EDGE, 27, "Three real applies, cancelled as GitHub Actions cancels a step (with shorter pauses):", "dim"),
    ]
    names = {"held": "lock: held", "left": "lock: left behind", "free": "lock: free"}
    for number, (title, columns, locks, ending) in enumerate(found):
        y = TOP + LANE * number
        out.append(text(EDGE, y + 12, title, "head"))
        for column, (words, lock) in enumerate(zip(columns, locks)):
            x = EDGE + COLUMN * column
            out.append(f'<rect class="{lock}" x="{x}" y="{y + 21}" width="{COLUMN - 2}" height="16"/>')
            if column == 0 or locks[column - 1] != lock:
                out.append(text(x + 6, y + 33, names[lock], "on"))
            out.append(text(x, y + 54, words[0]))
            out.append(text(x, y + 71, words[1], ending if column == 3 else ""))
    out.append("</svg>")
    return "\n".join(out) + "\n"


if __name__ == "__main__":
    if sys.argv[1:] == ["--record"]:
        record()
    if sys.argv[1:] == ["--check"]:
        if PICTURE.read_text() != draw():
            sys.exit("cancel.svg is not what demo.txt gives: run docs/picture/make.py")
    else:
        PICTURE.write_text(draw())
