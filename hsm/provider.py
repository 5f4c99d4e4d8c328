"""An OpenSSL provider inside this process, in which Python keys sign.

The provider is a table of C functions that OpenSSL 3 calls (provider(7), provider-keymgmt(7), provider-signature(7)),
made through ctypes for the very libcrypto that the ssl module uses.

- It is loaded into a library context (OSSL_LIB_CTX(3)) of its own, so nothing changes in the default one. A key of the
  provider leads OpenSSL to the provider, whatever context a connection uses.
- OpenSSL may use tables, callbacks and context until the process ends: they are never freed. A Python key is released
  when OpenSSL frees it.
- No exception crosses into C: signing fails there, and `InstalledKey.error` holds the reason.
"""

import ctypes
import itertools
from collections.abc import Callable
from ctypes import CFUNCTYPE, c_char_p, c_int, c_size_t, c_uint, c_void_p
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from hsm.errors import TlsBindingError

_NAME = b"renew-client-cert"
_NUMBER = b"number"
"""Our own parameter: the number of an offered key."""

# From core_dispatch.h, core.h and evp.h.
_OP_KEYMGMT, _OP_SIGNATURE = 10, 12
_PROVIDER_QUERY_OPERATION = 1027
_KEYMGMT_NEW, _KEYMGMT_FREE, _KEYMGMT_GET_PARAMS, _KEYMGMT_GETTABLE_PARAMS = 1, 10, 11, 12
_KEYMGMT_QUERY_OPERATION_NAME, _KEYMGMT_HAS, _KEYMGMT_MATCH, _KEYMGMT_IMPORT, _KEYMGMT_IMPORT_TYPES = 20, 21, 23, 40, 41
_SIGNATURE_NEWCTX, _SIGNATURE_DIGEST_SIGN_INIT, _SIGNATURE_DIGEST_SIGN, _SIGNATURE_FREECTX = 1, 8, 11, 16
_PRIVATE_KEY, _KEY_PAIR = 0x01, 0x87
_OCTETS = 5

_HASHES = {
    name % (8 * h.digest_size): h
    for h in (hashes.SHA256(), hashes.SHA384(), hashes.SHA512())
    for name in (b"SHA%d", b"SHA2-%d")
}
_GROUPS = {"secp256r1": "prime256v1"}
"""Curves that OpenSSL and cryptography name differently."""


class _Dispatch(ctypes.Structure):
    _fields_ = (("number", c_int), ("function", c_void_p))


class _Algorithm(ctypes.Structure):
    _fields_ = (("names", c_char_p), ("properties", c_char_p), ("functions", c_void_p), ("description", c_char_p))


class _Parameter(ctypes.Structure):
    _fields_ = (("key", c_char_p), ("kind", c_uint), ("data", c_void_p), ("size", c_size_t), ("returned", c_size_t))


_Start = CFUNCTYPE(c_int, c_void_p, c_void_p, c_void_p, c_void_p)
_Query = CFUNCTYPE(c_void_p, c_void_p, c_int, c_void_p)
_New = CFUNCTYPE(c_void_p, c_void_p)
_Free = CFUNCTYPE(None, c_void_p)
_Access = CFUNCTYPE(c_int, c_void_p, c_void_p)
_Has = CFUNCTYPE(c_int, c_void_p, c_int)
_Match = CFUNCTYPE(c_int, c_void_p, c_void_p, c_int)
_Import = CFUNCTYPE(c_int, c_void_p, c_int, c_void_p)
_OfNumber = CFUNCTYPE(c_void_p, c_int)
_NewContext = CFUNCTYPE(c_void_p, c_void_p, c_void_p)
_SignInit = CFUNCTYPE(c_int, c_void_p, c_char_p, c_void_p, c_void_p)
_Sign = CFUNCTYPE(c_int, c_void_p, c_void_p, c_void_p, c_size_t, c_void_p, c_size_t)


class InstalledKey:
    """A signing key that OpenSSL holds."""

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        self.key = key
        self.error: BaseException | None = None
        """What the last signature raised; None if it worked."""

    @property
    def size(self) -> int:
        """The maximum length of a signature (DER, X9.62), in bytes."""
        return 2 * ((self.key.key_size + 7) // 8) + 9


class Provider:
    """The loaded provider; one for the process, because OpenSSL may call it until the end. Raises TlsBindingError.

    `c` is the library, `error` returns OpenSSL's last error.
    """

    def __init__(self, c: Any, error: Callable[[], str]) -> None:  # noqa: ANN401
        self._c = c
        self._error = error
        self.installed: dict[int, InstalledKey | None] = {}
        """The keys that OpenSSL holds, by their numbers; None for the public key of a certificate."""
        self._offered: dict[int, InstalledKey] = {}
        self._signing: dict[int, tuple[InstalledKey, hashes.HashAlgorithm]] = {}
        self._numbers = itertools.count(1)
        self._context = c.OSSL_LIB_CTX_new()
        started = kept(_Start(self._start))
        if not c.OSSL_PROVIDER_add_builtin(self._context, _NAME, started) or not c.OSSL_PROVIDER_load(
            self._context, _NAME
        ):
            raise TlsBindingError(f"OpenSSL takes no provider for the keys of tokens: {error()}")

    def evp_key(self, entry: InstalledKey) -> c_void_p:
        """Make an EVP_PKEY that signs with the entry's key and keeps it; the caller calls EVP_PKEY_free.

        Raises TlsBindingError.
        """
        number = next(self._numbers)
        text = ctypes.create_string_buffer(b"%d" % number)
        parameters = (_Parameter * 2)(_Parameter(_NUMBER, _OCTETS, ctypes.addressof(text), len(text.value)))
        evp_key = c_void_p()
        maker = self._c.EVP_PKEY_CTX_new_from_name(self._context, b"EC", None)
        self._offered[number] = entry
        taken = (
            maker
            and self._c.EVP_PKEY_fromdata_init(maker) == 1
            and self._c.EVP_PKEY_fromdata(maker, ctypes.byref(evp_key), _KEY_PAIR, parameters) == 1
            # As a connection does: check that its library context finds this one.
            and self._c.EVP_PKEY_digestsign_supports_digest(evp_key, None, b"SHA256", None) == 1
        )
        self._offered.pop(number, None)
        self._c.EVP_PKEY_CTX_free(maker)
        if not taken:
            self._c.EVP_PKEY_free(evp_key)
            raise TlsBindingError(f"OpenSSL does not take a key that signs elsewhere: {self._error()}")
        return evp_key

    def _start(self, _core: int, _offers: int, functions_place: int, _context_place: int) -> int:
        algorithms = {
            _OP_KEYMGMT: _algorithm(b"EC:id-ecPublicKey:1.2.840.10045.2.1", self._key_functions()),
            _OP_SIGNATURE: _algorithm(b"ECDSA", self._signature_functions()),
        }
        query = _Query(lambda _provider, operation, _no_store: algorithms.get(operation))
        c_void_p.from_address(functions_place).value = _functions({_PROVIDER_QUERY_OPERATION: query})
        return 1

    def _key_functions(self) -> dict[int, Any]:
        """Make the callbacks of provider-keymgmt(7)."""
        nothing = ctypes.addressof(kept(_Parameter()))  # OpenSSL does not need the list of parameters
        operation = ctypes.addressof(kept(ctypes.create_string_buffer(b"ECDSA")))
        return {
            _KEYMGMT_NEW: _New(lambda _provider: next(self._numbers)),
            # Uses no global name: Python has removed those when the last keys are freed.
            _KEYMGMT_FREE: _Free(lambda number: self.installed.pop(number, None)),
            _KEYMGMT_GET_PARAMS: _Access(self._describe),
            _KEYMGMT_GETTABLE_PARAMS: _New(lambda _provider: nothing),
            _KEYMGMT_QUERY_OPERATION_NAME: _OfNumber(lambda _operation: operation),
            _KEYMGMT_HAS: _Has(self._has),
            # use_private_key() has compared key and certificate.
            _KEYMGMT_MATCH: _Match(lambda _one, _other, _selection: 1),
            _KEYMGMT_IMPORT: _Import(self._import),
            _KEYMGMT_IMPORT_TYPES: _OfNumber(lambda _selection: nothing),
        }

    def _describe(self, number: int, address: int) -> int:
        entry = self.installed.get(number)
        if entry is None:
            return 0
        bits, curve = entry.key.key_size, entry.key.curve.name
        values = {b"bits": bits, b"security-bits": min(bits // 2, 256), b"max-size": entry.size}
        done = True
        for name, parameter in _parameters(address).items():
            if name in values:
                done &= self._c.OSSL_PARAM_set_int(ctypes.byref(parameter), values[name])
            elif name == b"group":
                done &= self._c.OSSL_PARAM_set_utf8_string(ctypes.byref(parameter), _GROUPS.get(curve, curve).encode())
        return done

    def _has(self, number: int, selection: int) -> bool:
        return number in self.installed and (self.installed[number] is not None or not selection & _PRIVATE_KEY)

    def _import(self, number: int, _selection: int, address: int) -> bool:
        given = {p.key: ctypes.string_at(p.data, p.size) for p in _parameters(address).values() if p.kind == _OCTETS}
        if _NUMBER in given:
            self.installed[number] = self._offered[int(given[_NUMBER])]
        elif b"pub" in given:
            self.installed[number] = None
        return number in self.installed

    def _signature_functions(self) -> dict[int, Any]:
        """Make the callbacks of provider-signature(7): OpenSSL passes the whole message, which the key hashes."""
        return {
            _SIGNATURE_NEWCTX: _NewContext(lambda _provider, _properties: next(self._numbers)),
            _SIGNATURE_DIGEST_SIGN_INIT: _SignInit(self._begin),
            _SIGNATURE_DIGEST_SIGN: _Sign(self._sign),
            _SIGNATURE_FREECTX: _Free(lambda number: self._signing.pop(number, None)),
        }

    def _begin(self, number: int, name: bytes | None, key_number: int, _more: int) -> int:
        entry = self.installed.get(key_number)
        if entry is None:
            return 0
        algorithm = _HASHES.get(name or b"")
        if algorithm is None:
            entry.error = TlsBindingError(f"expected SHA-256, SHA-384 or SHA-512 to sign with, not {name!r}")
            return 0
        self._signing[number] = entry, algorithm
        return 1

    def _sign(self, number: int, signature: int | None, length: int, room: int, message: int, size: int) -> int:
        entry, algorithm = self._signing[number]
        if signature is None:
            c_size_t.from_address(length).value = entry.size
            return 1
        try:
            der = entry.key.sign(ctypes.string_at(message, size), ec.ECDSA(algorithm))
            if len(der) > room:
                raise TlsBindingError(f"the key gave a signature of {len(der)} bytes")
            ctypes.memmove(signature, der, len(der))
            c_size_t.from_address(length).value = len(der)
        except BaseException as error:  # noqa: BLE001 - C cannot take it; signing_error() returns it
            entry.error = error
            return 0
        entry.error = None
        return 1


def kept(what: Any) -> Any:  # noqa: ANN401 - ctypes makes its classes as it runs
    """Keep an object until the process ends: OpenSSL may use it after Python has cleared this module."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(what))
    return what


def _functions(by_number: dict[int, Any]) -> int:
    """Return the address of an OSSL_DISPATCH table of C functions."""
    table = kept((_Dispatch * (len(by_number) + 1))())
    for place, (number, function) in enumerate(by_number.items()):
        table[place] = (number, ctypes.cast(kept(function), c_void_p))
    return ctypes.addressof(table)


def _algorithm(names: bytes, functions: dict[int, Any]) -> int:
    """Return the address of an OSSL_ALGORITHM table of one algorithm."""
    return ctypes.addressof(kept((_Algorithm * 2)(_Algorithm(names, b"provider=" + _NAME, _functions(functions)))))


def _parameters(address: int) -> dict[bytes, _Parameter]:
    """Read an OSSL_PARAM array; its parameters can be set, too."""
    found = {}
    while key := (parameter := _Parameter.from_address(address)).key:
        found[key] = parameter
        address += ctypes.sizeof(_Parameter)
    return found
