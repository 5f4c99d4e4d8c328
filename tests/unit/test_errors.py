"""Text from outside in everything that is said: shown, never obeyed, and never a line that looks like one of ours."""

import contextlib
import errno
import io
import logging
import socket
import tempfile
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import example, given, settings
from hypothesis import strategies as st

from handler.commands.log import timeline
from handler.console import output
from handler.console.arguments import make_parser
from handler.console.progress import LogProgress, TerminalProgress
from handler.console.table import columns
from handler.daemon.notify import Notifier
from handler.device.keystore import IdentityNames
from handler.device.request import RotationRequest
from handler.errors import PendingError, RefusedError, describe, harmless
from handler.journal.events import EventFactory
from handler.journal.history import Entry
from handler.journal.journal import Journal
from hsm.certificate import Certificate
from hsm.errors import TokenError
from tests.authority import Authority

FORGED = "renew-client-cert: done"
NASTY = (
    "\x1b[2J",
    "\x1b]0;title\x07",
    "\r\n",
    "\n",
    "\u202e",
    "\u2028",
    "\u2066",
    "\x85",
    "\x9b31m",
    "\0",
    "\ud800",
    FORGED,
)
OUTSIDE = st.lists(st.one_of(st.sampled_from(NASTY), st.text(max_size=8)), min_size=1, max_size=8).map("".join)
AUTHORITY = Authority()
KEY = ec.generate_private_key(ec.SECP256R1()).public_key()


class Terminal(io.StringIO):
    def isatty(self):
        return True


def written(write):
    """Give what a function writes to standard output and standard error."""
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as errors:
        write()
    return out.getvalue() + errors.getvalue()


def logged(text, error=None):
    """Give a message of the log as it is written, with an error's traceback where there is one."""
    info = (type(error), error, None) if error else None
    record = logging.LogRecord("handler", logging.WARNING, "", 0, "the server says: %s", (text,), info)
    return output.MessageFormatter().format(record)


def parsed(text):
    """Give what is said of a wrong option."""
    with contextlib.suppress(SystemExit):
        make_parser().parse_args(["rotate", f"--{text}", "--if-due", text])


def progressed(kind, text):
    stream = Terminal() if kind is TerminalProgress else io.StringIO()
    progress = kind(stream)
    progress.step_started(1, text)
    progress.step_failed(text)
    progress.step_started(2, text)
    progress.step_done()
    name = text.encode(errors="replace")[:60].decode(errors="replace")
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name[:20])])
    progress.completed(
        text, IdentityNames(text, text), Certificate.read(AUTHORITY.issue(KEY, subject).public_bytes(Encoding.DER))
    )
    return stream.getvalue()


def waited(text):
    """Give what the journal says that a call waits for, as `status` and the daemon read it."""
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder))
        journal.request(RotationRequest("https://est.example/est", ("01", "07"), ("03", "09"), "certs-1"))
        journal.wait(PendingError(text))
        return journal.facts.waiting.reason


def told(text):
    """Give what systemd hears."""
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(f"{folder}/notify")
        Notifier({"NOTIFY_SOCKET": f"{folder}/notify"}).tell(STATUS=text)
        return systemd.recv(65536).decode()


def reported(text):
    """Give what the operators read of an event."""
    event = EventFactory("certs-1", (text, text)).make("Generate new certificate", failure=text)["event"]
    return "\n".join((event["details"], event["targetName"], event["version"]))


PLACES = {
    "a refusal": lambda text: describe(RefusedError(text)),
    "a failure of the system": lambda text: describe(OSError(errno.EACCES, text, text)),
    "a failure of the token": lambda text: describe(TokenError(text)),
    "standard output": lambda text: written(lambda: output.tell(text, "pending: ")),
    "standard error": lambda text: written(lambda: output.say(text)),
    "the log": logged,
    "a bug's traceback": lambda text: logged(text, ValueError(text)),
    "wrong usage": lambda text: written(lambda: parsed(text)),
    "progress in a log": lambda text: progressed(LogProgress, text),
    "progress on a terminal": lambda text: progressed(TerminalProgress, text),
    "a table": lambda text: "\n".join(columns(("a", "b"), [(text, text)])),
    "the timeline": lambda text: "\n".join(timeline([Entry(text, text, text, success=False, details=text)], 60)),
    "the journal": waited,
    "what systemd hears": told,
    "an event": reported,
}


@pytest.mark.parametrize("place", PLACES)
@given(text=OUTSIDE)
@example(text="".join(NASTY))
@settings(max_examples=60, deadline=None, database=None)
def test_text_from_outside_is_shown_and_never_obeyed(place, text):
    said = PLACES[place](f"it says {text}")
    assert [each for each in said if not each.isprintable() and each != "\n"] == []
    assert [line for line in said.split("\n") if line.startswith(FORGED)] == []


@given(OUTSIDE)
def test_a_text_that_was_made_harmless_stays_as_it_is(text):
    assert harmless(harmless(text)) == harmless(text)


@pytest.mark.parametrize("text", ["Grüße, 東京", "C:\\new", "it's 100 %"])
def test_a_text_that_only_prints_is_left_alone(text):
    assert harmless(text) == text


def test_an_escape_sequence_is_shown_as_what_it_is():
    assert harmless("\x1b[31mred\r\n\u202e\ud800") == "\\x1b[31mred\\r\\n\\u202e\\ud800"


def test_a_text_that_somebody_made_endless_is_cut():
    assert len(harmless("n" * 2_000_000)) < 5000
