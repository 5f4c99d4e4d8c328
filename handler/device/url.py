"""The addresses of servers in a configuration."""

import ipaddress
import re
from urllib.parse import urlsplit

_LABEL = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_NETLOC = re.compile(rf"(\[(?P<ipv6>[0-9A-Fa-f:.]+)\]|{_LABEL}(\.{_LABEL})*)(:(?P<port>[0-9]{{1,5}}))?")
_PATH = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=:@%/-]*")  # RFC 3986 §3.3
_NO_BLANKS = re.compile(r"[!-~]+")
MAX_PORT = 65535
MAX_SHOWN = 100


def https_url(text: str) -> str:
    """Check an https URL and return it without trailing slashes. Raises ValueError with the reason.

    Refused: another scheme, no host, credentials, a port out of range, a query or fragment, a character that a URL
    cannot hold (RFC 3986).
    """
    if not _NO_BLANKS.fullmatch(text):
        raise ValueError("it is empty, or holds a blank or another character that an address cannot hold")
    try:
        parts = urlsplit(text)
    except ValueError as error:
        raise ValueError("its host cannot be read") from error
    if parts.scheme != "https" or not parts.netloc:
        raise ValueError("it does not begin with https:// and a host")
    if "@" in parts.netloc:
        raise ValueError("it holds credentials")
    if "?" in text or "#" in text:
        raise ValueError("it holds a query or a fragment")
    netloc = _NETLOC.fullmatch(parts.netloc)
    if netloc is None:
        raise ValueError("its host or port is not one")
    if netloc["ipv6"]:
        ipaddress.IPv6Address(netloc["ipv6"])
    if netloc["port"] and not 1 <= int(netloc["port"]) <= MAX_PORT:
        raise ValueError(f"its port is not a number from 1 to {MAX_PORT}")
    if not _PATH.fullmatch(parts.path):
        raise ValueError("it holds a character that an address cannot hold")
    return text.rstrip("/")


def shown(text: str) -> str:
    """Return a value for a message: shortened, without what may be a password or a secret in a query."""
    text = re.sub(r"^([A-Za-z][A-Za-z0-9+.-]*:)?(//)?[\s\S]*@", r"\1\2***@", text)
    text = re.sub(r"[?#][\s\S]+", "?***", text)
    return repr(text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 1] + "…")
