"""Everything that reads what others send: what it reads, what it is given at first, and what it may say to that.

A target ends in order or with an error that it documents; anything else is a finding, and so is one that takes long.
"""

import base64
import contextlib
import json
import logging
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7

from handler.crypto import ecies
from handler.crypto.certificates import check_clock, check_issued, issued_for
from handler.crypto.csr import build_csr
from handler.crypto.encrypted_values import check_readable, device_files, dump_config, parse_config, reencrypt
from handler.device.completed_rotations import rotation_ids
from handler.device.configuration.toml_files import SotaConfig
from handler.device.current_target import current_target
from handler.device.request import Overrides, read_request
from handler.device.storage import FOLDER
from handler.errors import FORESEEABLE, RefusedError
from handler.journal.history import History
from handler.journal.journal import Journal
from handler.journal.pending import read_pending
from handler.journal.snapshot import Snapshot
from handler.rotation.phases.takeover import NAME, Left
from handler.servers.csrattrs import parse_csrattrs
from handler.servers.est import certificates_of
from handler.servers.response import Answer
from hsm.certificate import Certificate
from tests.simulators.pki import FactoryPki
from tests.unit.servers.loopback import RawServer, World, ask, running

SECONDS = 5.0
"""Of processor time that no input may take; a machine that is busy is slow at the first of them."""
DATA = Path(__file__).parents[1] / "data"
NOW = datetime.now(UTC)


@dataclass(frozen=True)
class Target:
    """`read` is given each input; `foreseen` are the errors that it documents."""

    read: Callable[[bytes], None]
    seeds: list[bytes]
    foreseen: tuple[type[Exception], ...] = FORESEEABLE

    def feed(self, data: bytes) -> None:
        """Read one input. Raises AssertionError if that takes long, and any other error that is a finding."""
        begun = time.process_time()
        with contextlib.suppress(*self.foreseen):
            self.read(data)
        assert time.process_time() - begun < SECONDS, "it takes long"


@contextmanager
def targets(folder: Path) -> Iterator[dict[str, Target]]:
    """Give the targets by their names; files are read in that folder, and one is an HTTPS server's client."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    pki, key = FactoryPki(), ec.generate_private_key(ec.SECP256R1())
    world = World(pki, key, folder)
    world.certificate = pki.device_certificate(key.public_key())
    world.ca_file.write_bytes(pki.ca_bundle_pem())
    try:
        with running(world, RawServer) as server:
            yield {
                **_certificates(world.certificate, key),
                **_configuration(key),
                **_files(folder),
                "HTTP answers": Target(lambda data: _answer(world, server, data), ANSWERS),
            }
    finally:
        logging.disable(level)


def _certificates(first: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> dict[str, Target]:
    current = Certificate.read(first.public_bytes(Encoding.DER))
    recorded = json.loads((DATA / "est.json").read_text())
    bags = [
        base64.b64decode(recorded["simplereenroll"]["body"]),
        pkcs7.serialize_certificates([first, first], Encoding.DER),
    ]

    def check(issued: Certificate) -> None:
        check_clock(issued, now=NOW, server_time=NOW)
        check_issued(issued, current, key.public_key(), issuers=[issued, current], now=NOW)

    def certificate(data: bytes) -> None:
        read = Certificate.read(data)
        build_csr(read, key)
        check(read)

    def bag(data: bytes) -> None:
        found = certificates_of(Answer("https://est.example/", 200, {}, base64.b64encode(data)))
        for issued in issued_for(key.public_key(), found):
            check(issued)

    def bag_as_text(data: bytes) -> None:
        certificates_of(Answer("https://est.example/", 200, {}, data))

    def csrattrs(data: bytes) -> None:
        build_csr(current, key, parse_csrattrs(data))

    return {
        "certificates": Target(certificate, [current.der], (*FORESEEABLE, ValueError)),
        "bags": Target(bag, bags),
        "bags as text": Target(bag_as_text, [base64.encodebytes(each) for each in bags]),
        "csrattrs": Target(csrattrs, CSRATTRS, (ValueError, RefusedError)),
    }


def _configuration(key: ec.EllipticCurvePrivateKey) -> dict[str, Target]:
    value = ecies.encrypt(key.public_key(), b"secret")
    entry = {"Value": value, "Unencrypted": False, "OnChanged": ["/usr/share/fioconfig/handlers/x"]}
    config = {"a": entry, "b": {"Value": "plain", "Unencrypted": True, "OnChanged": None}}

    def read(data: bytes) -> None:
        parsed = parse_config(data, "config")
        dump_config(parsed)
        json.dumps(device_files(parsed)).encode()
        check_readable(parsed, key)
        dump_config(reencrypt(parsed, key, key)[0])

    def decrypt(data: bytes) -> None:
        ecies.decrypt(key, data.decode("latin-1"))

    return {
        "JSON configuration": Target(read, [json.dumps(config).encode(), b"null"]),
        "encrypted values": Target(decrypt, [value.encode()], (ecies.DecryptError,)),
    }


def _files(folder: Path) -> dict[str, Target]:
    storage = folder / "storage"
    journal = storage / FOLDER / "journal"
    journal.parent.mkdir(parents=True)

    def toml(data: bytes) -> None:
        path = folder / "sota.toml"
        path.write_bytes(data)
        config = SotaConfig.load([path])
        for name in ("tls.server", "p11.pass", "storage.path"):
            config.get(name)
        config.update({"import.tls_pkey_path": "/new", "p11.tls_pkey_id": "07"})
        assert SotaConfig.load([path]).get("import.tls_pkey_path") == "/new"

    def state(data: bytes) -> None:
        left = Left.parse(data)
        left.request(token=True)
        str(left).encode()

    def read_journal(data: bytes) -> None:
        for content in (data, b"".join(b"%08x %s\n" % (zlib.crc32(line), line) for line in data.split(b"\n"))):
            journal.write_bytes(content)
            Snapshot.of(storage)
            with contextlib.suppress(*FORESEEABLE):
                read_pending(storage)
            Journal(storage).load()

    def small_files(data: bytes) -> None:
        for path in ("current-target", f"{NAME}.completed", f"{FOLDER}/history.jsonl", "request"):
            (storage / path).write_bytes(data)
        current_target(storage)
        rotation_ids(storage)
        History(storage / FOLDER).read()
        read_request(storage / "request", Overrides(), token=True, default_rotation_id=None)

    return {
        "TOML": Target(toml, SOTA),
        NAME: Target(state, STATES, (ValueError, RefusedError)),
        "journal": Target(read_journal, JOURNALS),
        "small files": Target(small_files, SMALL),
    }


def _answer(world: World, server: RawServer, data: bytes) -> None:
    server.says = data
    answer = ask(world, server, seconds=2.0, read=0.5, retry_delays=())
    for said in (answer.words, str(answer.retry_after), str(answer.date), str(answer.is_markup)):
        said.encode()


SOTA = [
    (
        b'[tls]\nserver = "https://a.example"\nca_source = "file"\n[import]\ntls_pkey_path = "/var/sota/pkey.pem"\n'
        b'[p11]\nmodule = "/usr/lib/x.so"\npass = "87654321"\ntls_pkey_id = "01"\n[storage]\npath = "/var/sota"\n'
    ),
    b'[import] # a comment\r\n"tls_pkey_path"=\'/a\'\r\nbase_path = "/var/sota/import"\r\n',
    b'[pacman]\ncallback_program = /usr/bin/callback-handler\n[import]\ntls_pkey_path = """a"""\n',
]
STATES = [
    (
        b'{"RotationId":"certs-1","StepIdx":1,"EstServer":"https://est.example/est","PkeySlotIds":["01","07"],'
        b'"CertSlotIds":["03","09"],"NewKey":"07","NewCert":"09","FullConfigEncrypted":"{}","Finalized":false}'
    )
]
ASKED = '{"est_server": "https://a/", "key_ids": ["01", "07"], "certificate_ids": ["03", "09"], "rotation_id": "c-1"}'
EVENT = (
    '{"id": "1", "deviceTime": "2026-11-27T00:00:00Z", "event": {"correlationId": "c-1", "success": true}, '
    '"eventType": {"id": "CertRotationStarted", "version": 0}}'
)
JOURNALS = [
    f'{{"version": 2, "device": "", "rotation": null, "requested": {ASKED}, "add": [{EVENT}]}}'.encode(),
    b'{"version": 2, "device": "d", "waiting": {"reason": "x", "until": null, "attempts": 1}}\n{"gone": ["1"]}',
    f'{{"version": 2, "rotation": {{"request": {ASKED}, "old": {{"key": "01", "certificate": "03"}}, "new": '
    f'{{"key": "07", "certificate": "09"}}, "step": 2, "public_key": "x"}}}}'.encode(),
]
SMALL = [
    b'TARGET_NAME="intel-lmp-290"\nCUSTOM_VERSION="290"\n',
    b"ESTSERVER=https://est.example:8443/est\nPKEYIDS=01,07\nCERTIDS=03,09\nROTATIONID=certs-1\n",
    b'{"RotationId":"certs-1","StepIdx":5}\n',
    b'{"time": "2026-11-27T00:00:00Z", "rotation_id": "certs-1", "event": "x", "success": true, "details": ""}\n',
]
CSRATTRS = [
    bytes.fromhex("300b06092a864886f70d010907"),  # challengePassword
    bytes.fromhex("301206072a8648ce3d0201300706052b81040022"),
    bytes.fromhex("3019301706092a864886f70d01090e310a3008300606042a030405"),
    bytes.fromhex("301d301b060b2a864886f70d010910023d310c300a02010030003003a10100"),
]
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nDate: Fri, 27 Nov 2026 12:00:00 GMT\r\n"
ANSWERS = [
    HEAD + b"Content-Length: 2\r\n\r\n{}",
    HEAD + b"Transfer-Encoding: chunked\r\n\r\n2;a=b\r\n{}\r\n0\r\nTrailer: x\r\n\r\n",
    HEAD + b"Content-Encoding: gzip, gzip\r\nContent-Length: 2\r\n\r\n{}",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 302 Found\r\nLocation: https://other.example/\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 503 Busy\r\nRetry-After: Fri, 27 Nov 2026 12:00:00 GMT\r\nConnection: close\r\n\r\nbusy",
]
