"""The reader of EST answers: any bytes are certificates or a refusal, in whatever form they are sent."""

import base64
import contextlib
import random

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from handler.crypto.certificates import check_issued, issued_for
from handler.errors import AnswerError, CertificateRefusedError, PendingError
from handler.servers.est import certificates_of
from handler.servers.response import Answer
from tests.authority import Authority, read
from tests.simulators.certs_only import certs_only

TYPE = {"Content-Type": "application/pkcs7-mime"}
CA = Authority()
CERTIFICATES = [CA.certificate, *(CA.issue(ec.generate_private_key(ec.SECP256R1()).public_key()) for _ in range(3))]
KEY = ec.generate_private_key(ec.SECP256R1()).public_key()
ISSUED = CA.issue(KEY)


def answer(body, content_type="application/pkcs7-mime"):
    return Answer("https://est.example/", 200, {"Content-Type": content_type}, body)


@settings(deadline=None, database=None, max_examples=300)
@given(st.binary(max_size=400) | st.binary(max_size=300).map(base64.b64encode))
def test_any_bytes_are_certificates_or_a_refusal(body):
    with contextlib.suppress(AnswerError):
        assert certificates_of(answer(body))


@settings(deadline=None, database=None, max_examples=100)
@given(
    st.lists(st.sampled_from(CERTIFICATES), min_size=1, max_size=4, unique=True),
    st.integers(0, 2**32),
    st.booleans(),
    st.sampled_from(
        ["application/pkcs7-mime", "APPLICATION/PKCS7-MIME; smime-type=certs-only", "application/x-pkcs7-mime"]
    ),
)
def test_certificates_are_read_in_their_order_with_blanks_and_armour_anywhere(bag, seed, armour, content_type):
    rng, text = random.Random(seed), base64.b64encode(certs_only(bag)).decode()
    pieces = []
    while text:
        size = rng.randint(1, 90)
        pieces.append(text[:size] + rng.choice(["", "\n", "\r\n", " ", "\t", "\n\n"]))
        text = text[size:]
    text = "".join(pieces)
    if armour:
        text = f"-----BEGIN PKCS7-----\n{text}\n-----END PKCS7-----\n"
    assert certificates_of(answer(text.encode(), content_type)) == [read(each) for each in bag]


@settings(deadline=None, database=None, max_examples=200)
@given(st.integers(0), st.integers(0, 255), st.booleans())
def test_a_spoilt_answer_is_certificates_or_a_refusal(place, byte, cut):
    body = bytearray(base64.b64encode(certs_only(CERTIFICATES[:2])))
    place %= len(body)
    if cut:
        del body[place:]
    else:
        body[place] = byte
    with contextlib.suppress(AnswerError):
        certificates_of(answer(bytes(body)))


@settings(deadline=None, database=None, max_examples=300)
@given(st.integers(0), st.integers(0, 255))
def test_a_spoilt_certificate_is_refused_or_as_it_was(place, byte):
    bag = bytearray(certs_only([ISSUED]))
    bag[place % len(bag)] = byte
    with contextlib.suppress(AnswerError, CertificateRefusedError, PendingError):
        issued = issued_for(KEY, certificates_of(answer(base64.b64encode(bytes(bag)))))[0]
        # A name of another issuer is only warned of: nobody's key is at hand to check it.
        warned = check_issued(issued, read(ISSUED), KEY, issuers=[read(CA.certificate)], now=CA.now)
        assert warned or issued.tbs == ISSUED.tbs_certificate_bytes


@pytest.mark.parametrize("content_type", ["", "text/html", "application/pkcs10", "application/pkcs7"])
def test_certificates_are_what_they_are_whatever_their_content_type(content_type):
    assert certificates_of(answer(base64.b64encode(certs_only(CERTIFICATES)), content_type)) == [
        read(each) for each in CERTIFICATES
    ]


@pytest.mark.parametrize(
    "around", [(b"", b"\0"), (b"\xef\xbb\xbf", b"\r\n"), (b"\xef\xbb\xbf-----BEGIN PKCS7-----\n", b"\0")]
)
def test_what_servers_put_around_base64_does_not_matter(around):
    before, behind = around
    assert certificates_of(answer(before + base64.encodebytes(certs_only(CERTIFICATES)) + behind)) == [
        read(each) for each in CERTIFICATES
    ]


def test_certificates_that_come_without_base64_are_read():
    assert certificates_of(answer(certs_only(CERTIFICATES))) == [read(each) for each in CERTIFICATES]


def test_a_bag_without_certificates_is_refused():
    with pytest.raises(AnswerError):
        certificates_of(answer(base64.b64encode(certs_only([]))))


def test_a_pkcs7_of_another_kind_is_refused():
    signed_data, unheard_of = bytes.fromhex("06092a864886f70d010702"), bytes.fromhex("06092a864886f70d010709")
    body = base64.b64encode(certs_only(CERTIFICATES).replace(signed_data, unheard_of))
    with pytest.raises(AnswerError, match="not base64 of a certs-only PKCS#7"):
        certificates_of(answer(body))
