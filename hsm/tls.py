"""A Python private key in an ssl.SSLContext: TLS with a key that stays in its token.

CPython's ssl loads keys from files only (cpython issue 116971). Here the key goes in one floor below, through ctypes,
in the very libssl that the ssl module uses:

- The `SSL_CTX *` is the first word after the object header of an SSLContext. It is taken for one only after its
  options, read through OpenSSL, follow a change made through Python.
- An EC_KEY is made of the public key and given an EC_KEY_METHOD whose `sign` calls Python. The method goes in before
  the EC_KEY goes into an EVP_PKEY: OpenSSL 3 decides there whether the key is foreign to its providers.
- A connection keeps its SSL_CTX and so the EVP_PKEY alive after the Python context is gone. The method and its C
  callbacks are therefore made once and never freed, and the Python key is let go when OpenSSL frees the EC_KEY.
- No exception crosses into C: signing fails there, and `signing_error` tells why.

OpenSSL 1.1.1 and 3.x with these functions; anything else is a TlsBindingError, before anything is called.
"""

import _ssl
import ctypes
import itertools
import logging
import ssl
import sys
import threading
import weakref
from collections.abc import Callable
from ctypes import CFUNCTYPE, POINTER, c_char_p, c_int, c_long, c_size_t, c_uint, c_ulong, c_void_p
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from hsm.certificate import Certificate
from hsm.errors import FinalTokenError

_SSL_CTRL_MODE = 33
_SSL_MODE_NO_AUTO_CHAIN = 0x8
_OPENSSL_1_1_1 = 0x10101000
_OPENSSL_3 = 0x30000000
_HASHES = {h.digest_size: h for h in (hashes.SHA256(), hashes.SHA384(), hashes.SHA512())}

_log = logging.getLogger(__name__)


class TlsBindingError(FinalTokenError):
    """This Python or OpenSSL lacks what a key outside of files needs, or refuses the key."""


_Sign = CFUNCTYPE(c_int, c_int, c_void_p, c_int, c_void_p, c_void_p, c_void_p, c_void_p, c_void_p)
_Finish = CFUNCTYPE(None, c_void_p)
_Copy = CFUNCTYPE(c_int, c_void_p, c_void_p)
_CertificateCallback = CFUNCTYPE(c_int, c_void_p, c_void_p)

# Result and arguments, from ssl.h, ec.h, evp.h, err.h and crypto.h. SSL_CTX_get_options depends on the version.
_FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "OpenSSL_version_num": (c_ulong, ()),
    "ERR_clear_error": (None, ()),
    "ERR_get_error": (c_ulong, ()),
    "ERR_error_string_n": (None, (c_ulong, c_char_p, c_size_t)),
    "EC_KEY_OpenSSL": (c_void_p, ()),
    "EC_KEY_METHOD_new": (c_void_p, (c_void_p,)),
    "EC_KEY_METHOD_set_init": (None, (c_void_p, c_void_p, _Finish, _Copy, c_void_p, c_void_p, c_void_p)),
    "EC_KEY_METHOD_set_sign": (None, (c_void_p, _Sign, c_void_p, c_void_p)),
    "EC_KEY_free": (None, (c_void_p,)),
    "EC_KEY_set_method": (c_int, (c_void_p, c_void_p)),
    "d2i_EC_PUBKEY": (c_void_p, (c_void_p, POINTER(c_char_p), c_long)),
    "EVP_PKEY_new": (c_void_p, ()),
    "EVP_PKEY_free": (None, (c_void_p,)),
    "EVP_PKEY_set1_EC_KEY": (c_int, (c_void_p, c_void_p)),
    "SSL_CTX_use_certificate_ASN1": (c_int, (c_void_p, c_int, c_char_p)),
    "SSL_CTX_use_PrivateKey": (c_int, (c_void_p, c_void_p)),
    "SSL_CTX_ctrl": (c_long, (c_void_p, c_int, c_long, c_void_p)),
    "SSL_CTX_set_cert_cb": (None, (c_void_p, _CertificateCallback, c_void_p)),
}


class _Installed:
    """A key in a context, and the error that it raised last."""

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        self.key = key
        self.error: BaseException | None = None


class _OpenSsl:
    """The libraries behind the ssl module as `c`, and this process's one EC_KEY_METHOD. Raises TlsBindingError."""

    def __init__(self) -> None:
        version = ssl.OPENSSL_VERSION_NUMBER
        if sys.implementation.name != "cpython":
            raise TlsBindingError(f"a key in a token needs CPython, this is {sys.implementation.name}")
        if not ssl.OPENSSL_VERSION.startswith("OpenSSL ") or version < _OPENSSL_1_1_1:
            raise TlsBindingError(f"a key in a token needs OpenSSL 1.1.1 or newer, this is {ssl.OPENSSL_VERSION}")
        # Symbols are looked up in that file and what it links, or in the program where ssl is built in.
        self.c = ctypes.CDLL(getattr(_ssl, "__file__", None))
        options = ctypes.c_uint64 if version >= _OPENSSL_3 else c_ulong
        for name, (result, arguments) in {**_FUNCTIONS, "SSL_CTX_get_options": (options, (c_void_p,))}.items():
            try:
                function = getattr(self.c, name)
            except AttributeError as error:
                raise TlsBindingError(
                    f"{ssl.OPENSSL_VERSION} of this Python has no {name}: a key in a token cannot be used with it"
                ) from error
            function.restype = result
            function.argtypes = arguments
        if self.c.OpenSSL_version_num() != version:
            raise TlsBindingError(f"expected the functions of {ssl.OPENSSL_VERSION}, found those of another OpenSSL")
        self.installed: dict[int, _Installed] = {}
        self.requested: dict[int, Callable[[], None]] = {}
        self.numbers = itertools.count(1)
        sign, finish, copy, self.on_request = _callbacks(self.installed, self.requested)
        for callback in (sign, finish, copy, self.on_request):
            # OpenSSL may call them until the process ends, later than Python clears this module.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(callback))
        self.method = self.c.EC_KEY_METHOD_new(self.c.EC_KEY_OpenSSL())
        if not self.method:
            raise TlsBindingError(f"OpenSSL makes no EC_KEY_METHOD: {self.error()}")
        self.c.EC_KEY_METHOD_set_init(self.method, None, finish, copy, None, None, None)
        self.c.EC_KEY_METHOD_set_sign(self.method, sign, None, None)

    def error(self) -> str:
        """Take OpenSSL's errors from its queue, and give the last one in its words."""
        words = "no reason given"
        while code := self.c.ERR_get_error():
            text = ctypes.create_string_buffer(256)
            self.c.ERR_error_string_n(code, text, len(text))
            words = text.value.decode("ascii", "replace")
        return words

    def context(self, context: ssl.SSLContext) -> int:
        """Give the address of the SSL_CTX of a Python context, once it is sure that it is one."""
        if not isinstance(context, ssl.SSLContext):
            raise TlsBindingError(f"expected an ssl.SSLContext, not {type(context).__name__}")
        elsewhere = f"Python {sys.version.split()[0]} keeps its SSL_CTX in a place that is not known"
        address = c_void_p.from_address(id(context) + object.__basicsize__).value
        if address is None or address % ctypes.sizeof(c_void_p):
            raise TlsBindingError(elsewhere)
        before = context.options
        try:
            # Equal options could be chance; that they follow a change cannot be.
            for options in (before, before ^ ssl.OP_NO_TICKET):
                context.options = options
                # Python 3.11 passes options through a C long, which has a sign, and 32 bits on small devices.
                if (self.c.SSL_CTX_get_options(address) ^ int(context.options)) & 0xFFFFFFFF:
                    raise TlsBindingError(elsewhere)
        finally:
            context.options = before
        return address


def _callbacks(installed: dict[int, _Installed], requested: dict[int, Callable[[], None]]) -> tuple[Any, ...]:
    """Make the C callbacks. `finish` uses no global name: keys are freed while Python ends, when those are gone."""

    def sign(
        _kind: int, digest: int, length: int, signature: int, size: int, _inverse: int, _r: int, address: int
    ) -> int:
        entry = installed.get(address)
        if entry is None:
            return 0
        try:
            der = _signature(entry.key, ctypes.string_at(digest, length))
            ctypes.memmove(signature, der, len(der))
            c_uint.from_address(size).value = len(der)
        except BaseException as error:  # noqa: BLE001 - C cannot take it; signing_error() gives it
            entry.error = error
            return 0
        entry.error = None
        return 1

    def finish(address: int) -> None:
        installed.pop(address, None)

    def copy(to: int, source: int) -> int:
        if source in installed:
            installed[to] = installed[source]
        return 1

    def on_request(_connection: int, number: int) -> int:
        callback = requested.get(number)
        try:
            if callback is not None:
                callback()
        except Exception:  # noqa: BLE001 - C cannot take it
            _log.exception("A certificate request could not be noted")
        return 1

    return _Sign(sign), _Finish(finish), _Copy(copy), _CertificateCallback(on_request)


def _signature(key: ec.EllipticCurvePrivateKey, digest: bytes) -> bytes:
    """Sign a digest; the DER form is at most 8 bytes longer than r and s (X9.62, and what OpenSSL has room for)."""
    if len(digest) not in _HASHES:
        raise TlsBindingError(f"expected a digest of SHA-256, SHA-384 or SHA-512 to sign, not of {len(digest)} bytes")
    der = key.sign(digest, ec.ECDSA(utils.Prehashed(_HASHES[len(digest)])))
    if len(der) > 2 * ((key.key_size + 7) // 8 + 1) + 7:
        raise TlsBindingError(f"the key gave a signature of {len(der)} bytes")
    return der


_lock = threading.Lock()
_library: _OpenSsl | None = None
_by_context: "weakref.WeakKeyDictionary[ssl.SSLContext, _Installed]" = weakref.WeakKeyDictionary()


def _openssl() -> _OpenSsl:
    """Bind OpenSSL when it is first needed; one EC_KEY_METHOD must do for the process, as none can be freed."""
    global _library  # noqa: PLW0603 - C code refers to it until the process ends
    with _lock:
        if _library is None:
            _library = _OpenSsl()
        return _library


def use_private_key(context: ssl.SSLContext, certificate_der: bytes, key: ec.EllipticCurvePrivateKey) -> None:
    """Make the context present a certificate (DER), with a key of which only sign() and public_key() are used.

    The key signs during handshakes, in the thread of the handshake; what it raises is kept for signing_error().
    Raises ValueError for a certificate that cannot be read, TlsBindingError.
    """
    if not Certificate.read(certificate_der).holds(key.public_key()):
        raise TlsBindingError("the certificate is for another key than the one to be used with it")
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    openssl = _openssl()
    address = openssl.context(context)
    entry = _Installed(key)
    openssl.c.ERR_clear_error()
    ec_key = openssl.c.d2i_EC_PUBKEY(None, ctypes.byref(c_char_p(spki)), len(spki))
    evp_key = openssl.c.EVP_PKEY_new()
    try:
        if not ec_key or not evp_key or not openssl.c.EC_KEY_set_method(ec_key, openssl.method):
            raise TlsBindingError(f"OpenSSL does not take the public key: {openssl.error()}")
        # From here on `finish` removes the entry when the last reference to the EC_KEY goes.
        openssl.installed[ec_key] = entry
        if (
            not openssl.c.EVP_PKEY_set1_EC_KEY(evp_key, ec_key)
            or not openssl.c.SSL_CTX_use_certificate_ASN1(address, len(certificate_der), certificate_der)
            or not openssl.c.SSL_CTX_use_PrivateKey(address, evp_key)
        ):
            raise TlsBindingError(f"OpenSSL does not take the certificate or its key: {openssl.error()}")
        _by_context[context] = entry
    finally:
        # The context holds references of its own.
        openssl.c.EVP_PKEY_free(evp_key)
        openssl.c.EC_KEY_free(ec_key)


def why_refused(certificate_der: bytes) -> str | None:
    """Say why OpenSSL takes a certificate (DER) for no client's: its signature or key is too weak, or it is unreadable.

    None where it takes it, or where that cannot be asked here.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        openssl = _openssl()
        address = openssl.context(context)
    except TlsBindingError:
        return None
    openssl.c.ERR_clear_error()
    if openssl.c.SSL_CTX_use_certificate_ASN1(address, len(certificate_der), certificate_der):
        return None
    return openssl.error()


def present_leaf_only(context: ssl.SSLContext) -> None:
    """Make the context send its one certificate, for software keys too. Raises TlsBindingError.

    OpenSSL otherwise completes the chain from the trust store, and the EST server answers 401 to a chain.
    """
    openssl = _openssl()
    mode = openssl.c.SSL_CTX_ctrl(openssl.context(context), _SSL_CTRL_MODE, _SSL_MODE_NO_AUTO_CHAIN, None)
    if not mode & _SSL_MODE_NO_AUTO_CHAIN:
        raise TlsBindingError("OpenSSL does not take SSL_MODE_NO_AUTO_CHAIN: it would send a chain")


def on_certificate_request(context: ssl.SSLContext, callback: Callable[[], None]) -> None:
    """Have `callback` called in every handshake in which the server asks for a client certificate.

    It is kept as long as the context, so it must not hold the context itself. What it raises is logged and goes no
    further. Raises TlsBindingError.
    """
    openssl = _openssl()
    address = openssl.context(context)
    number = next(openssl.numbers)
    openssl.requested[number] = callback
    weakref.finalize(context, openssl.requested.pop, number, None).atexit = False
    openssl.c.SSL_CTX_set_cert_cb(address, openssl.on_request, number)


def signing_error(context: ssl.SSLContext) -> BaseException | None:
    """Give, once, what the key of the context raised in a handshake; None if it raised nothing since the last call."""
    entry = _by_context.get(context)
    if entry is None:
        return None
    error, entry.error = entry.error, None
    return error
