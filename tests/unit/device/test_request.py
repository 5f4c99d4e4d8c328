"""The request file and the options over it."""

import logging
import os
import string
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handler.device.request import Entry, Overrides, RotationRequest, parse_request, read_request
from handler.errors import RequestRefusedError

EST = "https://4a53f331-6f01-4694-8a97-af253d4d9b63.est.foundries.io:8443/.well-known/est"
FIOCTL = f"ESTSERVER={EST}\nPKEYIDS=01,07\nCERTIDS=03,09\nROTATIONID=certs-1669058841\n"
PROPERTY = settings(max_examples=80, deadline=None, database=None)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "fio-rotate-certs"


def read(file, content, *, token=True, overrides=None, default_rotation_id=None):
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_request(file, overrides or Overrides(), token=token, default_rotation_id=default_rotation_id)


def refusal(file, content, **arguments):
    with pytest.raises(RequestRefusedError) as caught:
        read(file, content, **arguments)
    return str(caught.value)


def with_line(key, line):
    kept = [each for each in FIOCTL.splitlines() if not each.startswith(f"{key}=")]
    return "\n".join([line, *kept, ""])


def test_file_of_fioctl_is_read(file):
    assert read(file, FIOCTL) == RotationRequest("certs-1669058841", EST, ("01", "07"), ("03", "09"), csrattrs=False)


@pytest.mark.parametrize(
    "content",
    [
        FIOCTL.replace("\n", "\r\n"),
        FIOCTL.rstrip("\n"),
        "\ufeff" + FIOCTL,
        "# by fioctl\n\n \t\r\n" + FIOCTL + "  # end",
        FIOCTL.replace("=", " =\t ", 1).replace("PKEYIDS", "  PKEYIDS").replace("01,07", "01,07  "),
        FIOCTL + "PKEYIDS=01,07\n",
        FIOCTL.replace("/est\n", "/est/\n"),
        FIOCTL.replace("01,07", "1, 7"),
    ],
    ids=["CRLF", "no last line end", "BOM", "comments", "blanks", "key again", "slash at the end", "ids of one digit"],
)
def test_other_ways_to_write_it_mean_the_same(file, content):
    assert read(file, content) == read(file, FIOCTL)


def test_value_may_contain_equals_signs(file):
    url = "https://est.example/a=b/est"
    assert read(file, with_line("ESTSERVER", f"ESTSERVER={url}")).est_server == url


@pytest.mark.parametrize(
    "url",
    [
        "https://est.example",
        "https://localhost:1",
        "https://127.0.0.1:65535/est",
        "https://[2001:db8::1]:8443/.well-known/est/factory-1",
        "https://[::1]",
        "HTTPS://Est.Example/est",
    ],
)
def test_https_url_is_kept_as_given(file, url):
    assert read(file, with_line("ESTSERVER", f"ESTSERVER={url}")).est_server == url


@pytest.mark.parametrize(
    "url",
    [
        "http://est.example/est",
        "est.example/est",
        "//est.example",
        "https://",
        "https:///est",
        "https://user@est.example/est",
        "https://user:hunter2@est.example/est",
        "https://est.example/est?x=1",
        "https://est.example/est?",
        "https://est.example/est#x",
        "https://est.example:0/est",
        "https://est.example:65536/est",
        "https://est.example:/est",
        "https://est.example:80a/est",
        "https://[::1/est",
        "https://[fe80::1%25eth0]/est",
        "https://[1.2.3.4]/est",
        "https://[::1]x/est",
        "https://est example/est",
        "https://est.example/a b",
        "https://est.example\\@evil/est",
        "https://-est.example/est",
        "https://est..example/est",
        "https://ést.example/est",
        '"https://est.example/est"',
        "https://est.example/\x01",
    ],
)
def test_est_server_that_is_no_plain_https_url_is_refused(file, url):
    message = refusal(file, with_line("ESTSERVER", f"ESTSERVER={url}"))
    assert f"line 1 of {file}" in message
    assert "expected" in message
    assert "hunter2" not in message


@pytest.mark.parametrize("key", ["ESTSERVER", "ROTATIONID", "PKEYIDS", "CERTIDS"])
@pytest.mark.parametrize("line", ["", "{}=", "{} = \t"])
def test_missing_or_empty_key_is_refused(file, key, line):
    message = refusal(file, with_line(key, line.format(key)))
    assert str(file) in message
    assert key in message
    assert "expected" in message


@pytest.mark.parametrize("ids", ["01", "01,1", "01,01", "00,01", "01,10", "01,0a", "a,b", "01;07", "01,07,", "01 07"])
@pytest.mark.parametrize("key", ["PKEYIDS", "CERTIDS"])
def test_ids_that_are_not_two_distinct_ones_are_refused(file, key, ids):
    message = refusal(file, with_line(key, f"{key}={ids}"))
    assert f"line 1 of {file}" in message
    assert key in message
    assert ids in message


def test_ids_do_not_matter_where_no_token_is_used(file):
    without = "\n".join(line for line in FIOCTL.splitlines() if "IDS" not in line)
    assert read(file, without, token=False).key_ids == ()
    assert read(file, with_line("PKEYIDS", "PKEYIDS=zz"), token=False).key_ids == ("zz",)


@pytest.mark.parametrize("rotation_id", ["a b", "ä", "certs/1", "a.b", "x" * 129, "$(id)", "'x'"])
def test_rotation_id_that_the_gateway_drops_is_refused(file, rotation_id):
    message = refusal(file, with_line("ROTATIONID", f"ROTATIONID={rotation_id}"))
    assert f"line 1 of {file}: ROTATIONID" in message
    assert rotation_id[:50] in message


def test_key_given_twice_with_different_values_is_refused(file):
    message = refusal(file, FIOCTL + "CERTIDS=03,08\n")
    assert f"line 5 of {file}" in message
    assert f"line 3 of {file}" in message
    assert "'03,08'" in message
    assert "'03,09'" in message


def test_credentials_are_not_shown_in_any_message(file):
    secret = "ESTSERVER=https://user:hunter2@est.example\n"
    for content in (secret, FIOCTL + secret, "https://user:hunter2@est.example\n", "=//u:hunter2@x"):
        assert "hunter2" not in refusal(file, content)


@pytest.mark.parametrize("line", ["ESTSERVER", "=x", "export", "ROTATIONID: x", "A=\x00", "A=x\x07", "A=x\ry"])
def test_line_that_is_no_entry_is_refused(file, line):
    assert f"line 2 of {file}" in refusal(file, f"# one\n{line}\n{FIOCTL}")


def test_bytes_that_are_not_utf8_are_refused_with_their_line(file):
    message = refusal(file, FIOCTL.encode() + b"X=\xff\n")
    assert f"line 5 of {file}" in message
    assert "0xff" in message


def test_huge_file_is_refused(file):
    assert "65536" in refusal(file, FIOCTL + "#" * 65536)


def test_folder_in_the_place_of_the_file_is_refused(tmp_path):
    with pytest.raises(RequestRefusedError, match="cannot be read"):
        read_request(tmp_path, Overrides(), token=False, default_rotation_id=None)


def test_unknown_key_is_warned_of_without_its_value(file, caplog):
    with caplog.at_level(logging.WARNING):
        assert read(file, FIOCTL + "PASSWORD=hunter2\n") == read(file, FIOCTL)
    assert "PASSWORD" in caplog.text
    assert f"line 5 of {file}" in caplog.text
    assert "hunter2" not in caplog.text


@pytest.mark.parametrize(("value", "expected"), [("yes", True), ("no", False)])
def test_csrattrs_is_asked_for_by_the_file(file, value, expected):
    assert read(file, f"{FIOCTL}EST_CSRATTRS={value}\n").csrattrs is expected


def test_csrattrs_is_yes_or_no(file):
    assert "expected yes or no" in refusal(file, FIOCTL + "EST_CSRATTRS=1\n")


def test_absent_file_asks_for_nothing(file):
    for path in (None, file, file / "below"):
        assert read_request(path, Overrides(), token=True, default_rotation_id="certs-1") is None


def test_options_stand_in_for_an_absent_file(file):
    overrides = Overrides(EST + "/", None, "1,7", "3,9")
    request = read_request(file, overrides, token=True, default_rotation_id="certs-5")
    assert request == RotationRequest("certs-5", EST, ("01", "07"), ("03", "09"))


def test_options_override_the_file(file):
    overrides = Overrides("https://other.example", "mine", "02,05", "04,06")
    request = read(file, with_line("ROTATIONID", "ROTATIONID=not/good"), overrides=overrides)
    assert request == RotationRequest("mine", "https://other.example", ("02", "05"), ("04", "06"))


@pytest.mark.parametrize(
    ("overrides", "option"),
    [
        (Overrides(est_server="http://x"), "--est-server"),
        (Overrides(est_server=""), "--est-server"),
        (Overrides(est_server=" https://x.example"), "--est-server"),
        (Overrides(rotation_id="a b"), "--rotation-id"),
        (Overrides(pkey_ids="1"), "--pkey-ids"),
        (Overrides(cert_ids="1,1"), "--cert-ids"),
    ],
)
def test_bad_option_is_refused_by_its_name(file, overrides, option):
    assert f"option {option}" in refusal(file, FIOCTL, overrides=overrides)


def test_missing_server_without_a_file_is_refused(file):
    with pytest.raises(RequestRefusedError, match="the command line: ESTSERVER is missing"):
        read_request(file, Overrides(rotation_id="x"), token=False, default_rotation_id=None)


def test_rotation_id_of_the_file_comes_before_the_default(file):
    assert read(file, FIOCTL, default_rotation_id="certs-1").rotation_id == "certs-1669058841"


WORD = st.text(string.ascii_letters + string.digits + "-_=:/.", min_size=1, max_size=20)
KEY = st.text(string.ascii_uppercase, min_size=1, max_size=10)
NOISE = st.lists(st.sampled_from(["", " ", "# x", "\t#=", " # A=b"]), max_size=3)


@PROPERTY
@given(
    st.dictionaries(KEY, WORD, max_size=6), st.sampled_from(["\n", "\r\n"]), NOISE, st.sampled_from(["", " ", "\t "])
)
def test_any_entries_come_back_from_any_layout(entries, end, noise, blank):
    lines = []
    for key, value in entries.items():
        lines += [*noise, f"{blank}{key}{blank}={blank}{value}{blank}"]
    parsed = parse_request(end.join(lines), "f")
    assert {key: entry.value for key, entry in parsed.items()} == entries
    for entry in parsed.values():
        assert isinstance(entry, Entry)


@PROPERTY
@given(st.text(max_size=200) | st.text("ESTRVAL=\n\r\t #\x00", max_size=60))
def test_any_text_is_parsed_or_refused_with_its_place(text):
    try:
        entries = parse_request(text, "the-file")
    except RequestRefusedError as error:
        assert "of the-file: " in str(error)  # noqa: PT017 - either outcome is right
    else:
        for key, entry in entries.items():
            assert key == key.strip(" \t") != ""
            assert "\n" not in entry.value


@pytest.fixture(scope="module")
def shared_file(tmp_path_factory):
    return tmp_path_factory.mktemp("request") / "file"


@PROPERTY
@given(
    content=st.binary(max_size=100), line=st.sampled_from(["ESTSERVER", "ROTATIONID", "PKEYIDS", "CERTIDS"]), token=...
)
def test_any_bytes_give_a_checked_request_or_a_refusal(shared_file: Path, content: bytes, line: str, token: bool):
    start = f"{line}=".encode()
    shared_file.write_bytes(FIOCTL.encode().replace(start, start + content))
    try:
        request = read_request(shared_file, Overrides(), token=token, default_rotation_id=None)
    except RequestRefusedError as error:
        assert str(shared_file) in str(error)  # noqa: PT017 - either outcome is right
    else:
        assert request is not None
        assert request.est_server.lower().startswith("https://")
        assert request.rotation_id.replace("-", "").replace("_", "").isalnum()


def test_a_request_that_is_a_fifo_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "request")
    with pytest.raises(RequestRefusedError, match="not a regular file; expected a request file"):
        read_request(tmp_path / "request", Overrides(), token=False, default_rotation_id=None)
