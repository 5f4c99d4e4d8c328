"""A Python private key in an ssl.SSLContext: TLS with a key that stays in its token.

CPython's ssl loads keys from files only (cpython issue 116971). Here ctypes puts the key into the very libssl that the
ssl module uses:

- The `SSL_CTX *` is the first word after the object header of an SSLContext. It is accepted as one only after its
  options, read through OpenSSL, have followed a change made through Python.
- The key goes in as an EVP_PKEY of the provider in hsm.provider, which has Python sign.
- A connection keeps its SSL_CTX and so the EVP_PKEY alive after the Python context is gone. So C callbacks are made
  once and never freed, and the Python key is released when OpenSSL frees the EVP_PKEY.

Needs OpenSSL 3.0 or later with these functions; anything else is a TlsBindingError, before anything is called.
"""

import _ssl
import ctypes
import functools
import itertools
import ssl
import sys
import threading
import weakref
from ctypes import CFUNCTYPE, c_char_p, c_int, c_long, c_size_t, c_uint64, c_ulong, c_void_p
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from hsm.certificate import Certificate
from hsm.errors import TlsBindingError
from hsm.provider import InstalledKey, Provider, kept

_SSL_CTRL_MODE = 33
_SSL_MODE_NO_AUTO_CHAIN = 0x8
_SSL_CTRL_SESS_CONNECT = 21
_SSL_CTRL_SESS_CONNECT_RENEGOTIATE = 23
_SSL_CB_HANDSHAKE_START = 0x10
_OPENSSL_3 = 0x30000000

MAX_REPEATED = 3
"""Handshakes after the first, for each connection of a context on average."""

_CertificateCallback = CFUNCTYPE(c_int, c_void_p, c_void_p)
_InfoCallback = CFUNCTYPE(None, c_void_p, c_int, c_int)

# Result and arguments, from ssl.h, crypto.h, err.h, provider.h, params.h and evp.h.
_FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "OpenSSL_version_num": (c_ulong, ()),
    "ERR_clear_error": (None, ()),
    "ERR_get_error": (c_ulong, ()),
    "ERR_error_string_n": (None, (c_ulong, c_char_p, c_size_t)),
    "SSL_CTX_get_options": (c_uint64, (c_void_p,)),
    "SSL_CTX_use_certificate_ASN1": (c_int, (c_void_p, c_int, c_char_p)),
    "SSL_CTX_use_PrivateKey": (c_int, (c_void_p, c_void_p)),
    "SSL_CTX_ctrl": (c_long, (c_void_p, c_int, c_long, c_void_p)),
    "SSL_CTX_set_cert_cb": (None, (c_void_p, _CertificateCallback, c_void_p)),
    "SSL_CTX_set_info_callback": (None, (c_void_p, _InfoCallback)),
    "SSL_get_SSL_CTX": (c_void_p, (c_void_p,)),
    "SSL_set_options": (c_uint64, (c_void_p, c_uint64)),
    "OSSL_LIB_CTX_new": (c_void_p, ()),
    "OSSL_PROVIDER_add_builtin": (c_int, (c_void_p, c_char_p, c_void_p)),
    "OSSL_PROVIDER_load": (c_void_p, (c_void_p, c_char_p)),
    "OSSL_PARAM_set_int": (c_int, (c_void_p, c_int)),
    "OSSL_PARAM_set_utf8_string": (c_int, (c_void_p, c_char_p)),
    "EVP_PKEY_CTX_new_from_name": (c_void_p, (c_void_p, c_char_p, c_char_p)),
    "EVP_PKEY_CTX_free": (None, (c_void_p,)),
    "EVP_PKEY_fromdata_init": (c_int, (c_void_p,)),
    "EVP_PKEY_fromdata": (c_int, (c_void_p, c_void_p, c_int, c_void_p)),
    "EVP_PKEY_digestsign_supports_digest": (c_int, (c_void_p, c_void_p, c_char_p, c_char_p)),
    "EVP_PKEY_free": (None, (c_void_p,)),
}


class _OpenSsl:
    """The libraries behind the ssl module as `c`. Raises TlsBindingError."""

    def __init__(self) -> None:
        version = ssl.OPENSSL_VERSION_NUMBER
        if sys.implementation.name != "cpython":
            raise TlsBindingError(f"a key in a token needs CPython, this is {sys.implementation.name}")
        if not ssl.OPENSSL_VERSION.startswith("OpenSSL ") or version < _OPENSSL_3:
            raise TlsBindingError(f"a key in a token needs OpenSSL 3.0 or newer, this is {ssl.OPENSSL_VERSION}")
        # Finds symbols in that file and what it links, or in the program if ssl is built in.
        self.c = ctypes.CDLL(getattr(_ssl, "__file__", None))
        for name, (result, arguments) in _FUNCTIONS.items():
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
        self.watches: dict[int, Watch] = {}
        self.numbers = itertools.count(1)
        self.on_request = kept(_CertificateCallback(self._on_request))
        self.on_state = kept(_InfoCallback(self._on_state))

    @functools.cached_property
    def provider(self) -> Provider:
        """The provider, loaded on first use: never for keys in files."""
        return Provider(self.c, self.error)

    def error(self) -> str:
        """Empty OpenSSL's error queue and return the last error in its words."""
        words = "no reason given"
        while code := self.c.ERR_get_error():
            text = ctypes.create_string_buffer(256)
            self.c.ERR_error_string_n(code, text, len(text))
            words = text.value.decode("ascii", "replace")
        return words

    def context(self, context: ssl.SSLContext) -> int:
        """Return the address of the SSL_CTX of a Python context, after checking that it is one."""
        if not isinstance(context, ssl.SSLContext):
            raise TlsBindingError(f"expected an ssl.SSLContext, not {type(context).__name__}")
        elsewhere = f"Python {sys.version.split()[0]} keeps its SSL_CTX in a place that is not known"
        address = c_void_p.from_address(id(context) + object.__basicsize__).value
        if address is None or address % ctypes.sizeof(c_void_p):
            raise TlsBindingError(elsewhere)
        before = context.options
        try:
            # Equal options could be chance; options that follow a change cannot.
            for options in (before, before ^ ssl.OP_NO_TICKET):
                context.options = options
                # Python 3.11 passes options through a C long, which has a sign, and 32 bits on small devices.
                if (self.c.SSL_CTX_get_options(address) ^ int(context.options)) & 0xFFFFFFFF:
                    raise TlsBindingError(elsewhere)
        finally:
            context.options = before
        return address

    def _on_state(self, connection: int, where: int, _result: int) -> None:
        """Refuse what the server asks for by renegotiating, once it has done that too often."""
        if where == _SSL_CB_HANDSHAKE_START:
            context = self.c.SSL_get_SSL_CTX(connection)
            made = self.c.SSL_CTX_ctrl(context, _SSL_CTRL_SESS_CONNECT, 0, None)
            renegotiated = self.c.SSL_CTX_ctrl(context, _SSL_CTRL_SESS_CONNECT_RENEGOTIATE, 0, None)
            if renegotiated >= MAX_REPEATED * made > 0:
                self.c.SSL_set_options(connection, int(ssl.OP_NO_RENEGOTIATION))

    def _on_request(self, connection: int, number: int) -> int:
        """Count a request for the certificate; end the connection, once there were too many."""
        if (watch := self.watches.get(number)) is None:
            return 1
        watch.requests += 1
        made = self.c.SSL_CTX_ctrl(self.c.SSL_get_SSL_CTX(connection), _SSL_CTRL_SESS_CONNECT, 0, None)
        return int(watch.requests <= (1 + MAX_REPEATED) * made)


class Watch:
    """How often servers have asked a context for its certificate."""

    requests = 0


_lock = threading.Lock()
_library: _OpenSsl | None = None
_by_context: "weakref.WeakKeyDictionary[ssl.SSLContext, InstalledKey]" = weakref.WeakKeyDictionary()


def _openssl() -> _OpenSsl:
    """Bind OpenSSL on first use, once for the process."""
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
    openssl = _openssl()
    address = openssl.context(context)
    entry = InstalledKey(key)
    with _lock:
        provider = openssl.provider
    openssl.c.ERR_clear_error()
    evp_key = provider.evp_key(entry)
    try:
        if (
            openssl.c.SSL_CTX_use_certificate_ASN1(address, len(certificate_der), certificate_der) != 1
            or openssl.c.SSL_CTX_use_PrivateKey(address, evp_key) != 1
        ):
            raise TlsBindingError(f"OpenSSL does not take the certificate or its key: {openssl.error()}")
        _by_context[context] = entry
    finally:
        # The context holds a reference of its own.
        openssl.c.EVP_PKEY_free(evp_key)


def why_refused(certificate_der: bytes) -> str | None:
    """Return why OpenSSL refuses a client certificate (DER), e.g. a weak signature or key; None if it accepts it.

    None too if this OpenSSL cannot be asked.
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


def watch_requests(context: ssl.SSLContext) -> Watch:
    """Count the requests for the client certificate, and limit them. Raises TlsBindingError.

    A server that renegotiates (TLS 1.2, RFC 5246 §7.2.2) or asks for the certificate (TLS 1.3, RFC 8446 §4.6.2) without
    end is refused with an alert. A few times are granted: Apache asks in these ways once it has seen the path.
    """
    openssl = _openssl()
    address = openssl.context(context)
    number = next(openssl.numbers)
    openssl.watches[number] = watch = Watch()
    weakref.finalize(context, openssl.watches.pop, number, None).atexit = False
    openssl.c.SSL_CTX_set_cert_cb(address, openssl.on_request, number)
    openssl.c.SSL_CTX_set_info_callback(address, openssl.on_state)
    return watch


def asks_without_end(context: ssl.SSLContext, watch: Watch) -> bool:
    """Tell whether a connection of the context was refused another handshake: its server may then say anything."""
    stats = context.session_stats()
    made = stats["connect"]
    return stats["connect_renegotiate"] >= MAX_REPEATED * made > 0 or watch.requests > (1 + MAX_REPEATED) * made


def signing_error(context: ssl.SSLContext) -> BaseException | None:
    """Return what the key of the context raised in a handshake since the last call; None if nothing."""
    if (entry := _by_context.get(context)) is None:
        return None
    error, entry.error = entry.error, None
    return error
