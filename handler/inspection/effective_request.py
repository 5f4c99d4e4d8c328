"""The request that a rotation would use now, for commands that change nothing."""

from dataclasses import dataclass, replace
from pathlib import Path

from handler.device.request import CERTIFICATE_IDS, KEY_IDS, Overrides, read_request, with_usual_ids
from handler.errors import RequestRefusedError
from handler.journal.snapshot import Snapshot

_NOWHERE = "https://nowhere.invalid"


@dataclass(frozen=True)
class EffectiveRequest:
    """The request, completed with defaults."""

    origin: str
    """Where it comes from, in words."""
    est_server: str | None
    """None if nothing names the EST server."""
    key_ids: tuple[str, ...] = ()
    certificate_ids: tuple[str, ...] = ()
    problem: str | None = None
    """Why the given request is refused; then the ids are the defaults."""

    @classmethod
    def of(cls, path: Path, options: Overrides, view: Snapshot, *, named: bool, token: bool) -> "EffectiveRequest":
        """Read the request file, overridden by options; without a file, the pending rotation's request or the defaults.

        `named`: a person named the file. `token`: ids are needed. Raises nothing foreseeable.
        """
        usual = with_usual_ids(options._replace(est_server=options.est_server or _NOWHERE, rotation_id=None))
        try:
            if path.exists():
                return cls._read(path, options, str(path), token=token)
            if named:
                raise RequestRefusedError(f"--config-file {path}: expected a request file, there is none")
            pending = view.rotation.request if view.rotation else None
            if pending is None:
                found = cls._read(None, usual, "the usual ids" if token else "--est-server", token=token)
                return found if options.est_server else replace(found, est_server=None)
            given = Overrides(
                options.est_server or pending.est_server,
                None,
                options.pkey_ids or ",".join(pending.key_ids) or KEY_IDS,
                options.cert_ids or ",".join(pending.certificate_ids) or CERTIFICATE_IDS,
            )
            return cls._read(None, given, f"rotation {pending.rotation_id}, which is pending", token=token)
        except OSError as error:
            problem = f"{path} cannot be read: {error.strerror}; run this as root"
        except RequestRefusedError as error:
            problem = str(error)
        ids = tuple(KEY_IDS.split(",")), tuple(CERTIFICATE_IDS.split(","))
        return cls("the usual ids", None, *(ids if token else ((), ())), problem=problem)

    @classmethod
    def _read(cls, path: Path | None, given: Overrides, origin: str, *, token: bool) -> "EffectiveRequest":
        request = read_request(path, given, token=token, default_rotation_id="none")
        if request is None:
            raise RequestRefusedError(f"{origin} is gone")
        return cls(origin, request.est_server, request.key_ids, request.certificate_ids)
