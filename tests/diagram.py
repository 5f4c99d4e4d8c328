"""Draws docs/rotation.png: the requests of one real rotation, in their order.

python -m tests.diagram [FILE]
"""

import sys
import tempfile
import threading
from collections import Counter
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

from tests.simulators.factory import running_factory

OLD, NEW, QUIET = "#1f5fa8", "#b3471d", "#8a8a8a"
LANES = {"fioconfig": 0.0, "renew-client-cert": 1.0, "EST server": 2.15, "device gateway": 3.3}
# What is done on the device between two requests, by the request before which it is, and the how many-th of its kind.
BETWEEN = {
    ("POST", "/simplereenroll", 1): "1  new key in the unused slot, CSR",
    ("GET", "/cacerts", 1): "certificate checked, stored",
    ("PATCH", "/device", 1): "2  the gateway learns which key comes next",
    ("GET", "/config-device", 1): "are the device's own files readable? (beside the enrolment)",
    ("GET", "/config-device", 2): "3  config.encrypted for the new key, kept aside\n4  the device's own files",
    ("PATCH", "/config", 1): "encrypted to the new key",
    ("POST", "completed", 1): "5  sota.toml switched: the one commit point",
}


def record():
    """Run a rotation with a token; give its requests: lane, method, path, status, and whether the new certificate."""
    seen, lock = [], threading.Lock()
    with tempfile.TemporaryDirectory() as folder, running_factory(Path(folder, "device"), "token") as factory:
        old = factory.device.current_identity().public_key
        for lane, server in (("EST server", factory.est_server), ("device gateway", factory.gateway_server)):

            def respond(request, answer=server.respond, lane=lane):
                result = answer(request)
                path = request.path.replace("/.well-known/est", "")
                if path == "/events":
                    path = "completed" if b"CertRotationCompleted" in request.body else "/events"
                with lock:
                    seen.append((lane, request.method, path, result.status, request.public_key != old))
                return result

            server.respond = respond
        factory.device.write_request("certs-1669058841")
        done = factory.device.run()
        if done.returncode != 123:
            raise SystemExit(done.stderr)
    return seen


def draw(requests, path):
    """Draw them."""
    figure, axes = plt.subplots(figsize=(9.5, 7.6))
    height = 1.6
    row = [0.0]

    def step(size=1.0):
        row[0] -= size
        return row[0]

    def arrow(start, end, text, colour, style="-"):
        level = step()
        look = {"arrowstyle": "->", "color": colour, "ls": style}
        axes.annotate("", (LANES[end], level), (LANES[start], level), arrowprops=look)
        middle = (LANES[start] + LANES[end]) / 2
        axes.text(middle, level + 0.12, text, ha="center", va="bottom", fontsize=8, color=colour, backgroundcolor="w")

    def note(text):
        lines = text.count("\n") + 1
        level = step(0.55 * lines + 0.35)
        place = LANES["renew-client-cert"] + 0.04
        axes.text(place, level, text, fontsize=8, va="bottom", ha="left", color="#222222", backgroundcolor="w")

    arrow("fioconfig", "renew-client-cert", "CONFIG_FILE", "#222222")
    count = Counter()
    for lane, method, name, status, new in requests:
        count[method, name] += 1
        if (method, name, count[method, name]) in BETWEEN:
            note(BETWEEN[method, name, count[method, name]])
        shown = "/events: CertRotationCompleted" if name == "completed" else name
        colour = QUIET if name == "/events" else NEW if new else OLD
        arrow("renew-client-cert", lane, f"{method} {shown}  {status}", colour, ":" if name == "/events" else "-")
    note("the gateway's first sight of the new certificate: proved")
    arrow("renew-client-cert", "fioconfig", "exit status 123: restart", "#222222")
    step()
    for lane, place in LANES.items():
        axes.plot([place, place], [0.3, row[0]], color="#bbbbbb", lw=1, zorder=0)
        axes.text(place, 0.5, lane, ha="center", va="bottom", fontsize=10, weight="bold")
    for place, (colour, text) in enumerate(
        ((OLD, "with the current certificate"), (NEW, "with the new one"), (QUIET, "events, beside the rotation"))
    ):
        axes.text(place * 1.25, row[0] - 0.3, text, color=colour, fontsize=9)
    axes.set_xlim(-0.4, 3.8)
    axes.set_ylim(row[0] - 0.6, height)
    axes.axis("off")
    figure.savefig(path, dpi=110, bbox_inches="tight")


if __name__ == "__main__":
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/rotation.png")
    draw(record(), target)
    print(target)
