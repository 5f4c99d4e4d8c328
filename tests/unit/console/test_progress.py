"""What a person sees of a rotation, on a terminal and in a log."""

import io
import logging
import os
import re

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from handler.console.progress import LogProgress, TerminalProgress, in_use, make_progress
from handler.console.terminal import escape
from handler.device.keystore import IdentityNames
from tests.authority import Authority, read
from tests.terminal import make_terminal, read_all

NAMES = IdentityNames("07", "09")
SECONDS = r"\d+\.\d s"


@pytest.fixture(scope="module")
def certificate():
    return read(Authority().issue(ec.generate_private_key(ec.SECP256R1()).public_key()))


class Pages(io.StringIO):
    """A stream that remembers what had been flushed."""

    def __init__(self):
        super().__init__()
        self.flushed = ""

    def flush(self):
        super().flush()
        self.flushed = self.getvalue()


@pytest.fixture
def terminal():
    """Give a stream to a real terminal, and a function that hangs up and tells what showed there."""
    ours, theirs = make_terminal()
    stream = os.fdopen(theirs, "w", encoding="utf-8")

    def shown():
        stream.close()
        return read_all(ours)

    yield stream, shown
    stream.close()


def encoded(encoding):
    return io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True)


def written(stream):
    return stream.buffer.getvalue().decode(stream.encoding)


def matches(pattern, text):
    return re.fullmatch(pattern, text) is not None


def test_log_says_nothing_of_a_step_that_only_begins():
    stream = Pages()
    LogProgress(stream).step_started(1, "Generate new certificate")
    assert stream.getvalue() == ""


def test_log_has_one_line_for_a_step_that_is_done_and_shows_it_at_once():
    stream = Pages()
    progress = LogProgress(stream)
    progress.step_started(2, "Lock device configuration on server")
    progress.step_done()
    assert matches(rf"\[2/5\] Lock device configuration on server: ok, {SECONDS}\n", stream.flushed)


def test_log_has_one_line_for_a_step_that_failed_with_its_reason():
    stream = Pages()
    progress = LogProgress(stream)
    progress.step_started(4, "Update")
    progress.step_failed("the gateway answered HTTP 500")
    assert matches(rf"\[4/5\] Update: failed, {SECONDS}: the gateway answered HTTP 500\n", stream.flushed)


def test_log_of_two_steps_names_each_of_them():
    stream = Pages()
    progress = LogProgress(stream)
    for number, name in ((1, "First"), (2, "Second")):
        progress.step_started(number, name)
        progress.step_done()
    assert matches(rf"\[1/5\] First: ok, {SECONDS}\n\[2/5\] Second: ok, {SECONDS}\n", stream.getvalue())


def test_log_of_a_completion_says_what_is_in_use(certificate):
    stream = Pages()
    LogProgress(stream).completed("certs-1", NAMES, certificate)
    assert stream.flushed == f"rotation certs-1 complete\nin use now: {in_use(NAMES, certificate)}\n"


def test_identity_in_use_is_named_with_its_subject_and_its_end(certificate):
    line = in_use(NAMES, certificate)
    assert line.startswith("key 07, certificate 09 (CN=2e18a81e-2ec7-4471-a2f0-b3e0135b34c4,OU=factory), valid until ")
    assert line.endswith(f"{certificate.shown_end}")
    assert "\n" not in line


def test_terminal_shows_a_step_when_it_begins():
    stream = Pages()
    TerminalProgress(stream).step_started(3, "Update local configuration with new key")
    assert stream.flushed == "[3/5] Update local configuration with new key … "


def test_terminal_ends_the_line_of_a_step_that_is_done():
    stream = Pages()
    progress = TerminalProgress(stream)
    progress.step_started(1, "Generate")
    progress.step_done()
    assert matches(rf"\[1/5\] Generate … ok, {SECONDS}\n", stream.flushed)


def test_terminal_shows_the_reason_of_a_failure_below_its_step():
    stream = Pages()
    progress = TerminalProgress(stream)
    progress.step_started(1, "Generate")
    progress.step_failed("no token")
    assert matches(rf"\[1/5\] Generate … failed, {SECONDS}\n {{6}}no token\n", stream.flushed)


def test_terminal_of_a_completion_says_what_is_in_use(certificate):
    stream = Pages()
    TerminalProgress(stream).completed("certs-1", NAMES, certificate)
    assert stream.flushed == f"Done: certs-1. In use now: {in_use(NAMES, certificate)}\n"


def test_message_within_a_step_gets_a_line_of_its_own_and_the_step_is_named_again():
    stream = Pages()
    progress = TerminalProgress(stream)
    progress.step_started(1, "Generate")
    for text in ("one", "two"):
        assert progress.make_room(None)
        stream.write(f"WARNING: {text}\n")
    progress.step_done()
    pattern = rf"\[1/5\] Generate … \nWARNING: one\nWARNING: two\n\[1/5\] Generate … ok, {SECONDS}\n"
    assert matches(pattern, stream.getvalue())


def test_message_between_steps_needs_no_room():
    stream = Pages()
    progress = TerminalProgress(stream)
    assert progress.make_room(None)
    progress.step_started(1, "Generate")
    progress.step_done()
    before = stream.getvalue()
    assert progress.make_room(None)
    assert stream.getvalue() == before
    assert before.startswith("[1/5]")


@pytest.mark.parametrize(
    ("encoding", "dots"), [("utf-8", "…"), ("ascii", "..."), ("iso-8859-1", "..."), ("cp1252", "…")]
)
def test_dots_are_such_as_the_terminal_can_show(encoding, dots):
    stream = encoded(encoding)
    escape(stream, {"PYTHONIOENCODING": encoding})
    TerminalProgress(stream).step_started(1, "Generate")
    assert written(stream) == f"[1/5] Generate {dots} "


def test_file_or_pipe_gets_plain_lines():
    progress = make_progress(io.StringIO())
    assert type(progress) is LogProgress


def test_messages_that_go_to_the_same_terminal_do_not_run_into_a_step(terminal):
    stream, shown = terminal
    root = logging.getLogger()
    to_terminal, to_pipe = logging.StreamHandler(stream), logging.StreamHandler(io.StringIO())
    for handler in (to_terminal, to_pipe):
        root.addHandler(handler)
    try:
        progress = make_progress(stream)
        progress.step_started(1, "Generate")
        logging.getLogger("handler.test").warning("the clock is wrong")
        progress.step_done()
        assert to_pipe.filters == []
    finally:
        for handler in (to_terminal, to_pipe):
            root.removeHandler(handler)
    assert matches(rf"\[1/5\] Generate … \nthe clock is wrong\n\[1/5\] Generate … ok, {SECONDS}\n", shown())
    assert to_pipe.stream.getvalue() == "the clock is wrong\n"
