"""docs/reference.md names every limit on what others send, as it is in the code."""

import re

from handler import errors
from handler.crypto import bag, bounded_json, certificates, encrypted_values, names
from handler.device import config_encrypted, request, storage
from handler.device.configuration import toml_text
from handler.journal import pending
from handler.rotation.phases import takeover
from handler.servers import csrattrs, http, response, transport
from hsm import der, tls
from tests.simulators.device import REPOSITORY

BODY = http.Limits().answer
LIMITS = (
    (BODY, http.FRAMING * BODY + http.HEAD),
    (transport.MAX_INTERIM,),
    (tls.MAX_REPEATED,),
    (response.MAX_RETRY_AFTER,),
    (bounded_json.MAX_DEPTH,),
    (encrypted_values.MAX_VALUES,),
    (config_encrypted.MAX_BYTES,),
    (toml_text.MAX_CHARACTERS, toml_text.MAX_DEPTH),
    (der.MAX_ITEMS, der.MAX_DEPTH),
    (der.MAX_OID, der.MAX_ARC),
    (csrattrs.MAX_BYTES,),
    (bag.MAX_CERTIFICATES,),
    (certificates.MAX_SIZE,),
    (certificates.MAX_OF_ONE_KEY,),
    (certificates.MAX_ISSUERS,),
    (names.MAX_FOLDED,),
    (certificates.MAX_CA_SIZE,),
    (request.MAX_BYTES,),
    (pending.MAX_BYTES,),
    (storage.MAX_BYTES,),
    (takeover.MAX_BYTES,),
    (response.MAX_WORDS,),
    (errors.MAX_TEXT,),
)


def numbers(text):
    """Give the numbers of a cell, in order."""
    return tuple(
        2 ** int(power) if power else int(plain.replace(",", ""))
        for power, plain in re.findall(r"2\^(\d+)|(\d[\d,]*\d|\d)", text)
    )


def test_the_reference_names_the_limits_of_the_code():
    section = (REPOSITORY / "docs/reference.md").read_text().split("\n## Limits\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| .+? \| (.+) \|$", section, re.MULTILINE)[2:]
    assert tuple(map(numbers, rows)) == LIMITS
