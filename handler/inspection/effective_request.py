"""The request that a rotation would use now, for commands that change nothing."""

from dataclasses import dataclass
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
        pending = view.rotation.request if view.rotation else None
        source, given, origin = None, options, str(path)
        try:
            if path.exists():
                source = path
            elif named:
                raise RequestRefusedError(f"--config-file {path}: expected a request file, there is none")
            elif pending is not None:
                origin = f"rotation {pending.rotation_id}, which is pending"
                given = Overrides(
                    options.est_server or pending.est_server,
                    None,
                    options.pkey_ids or ",".join(pending.key_ids) or KEY_IDS,
                    options.cert_ids or ",".join(pending.certificate_ids) or CERTIFICATE_IDS,
                )
            else:
                origin = "the usual ids" if token else "--est-server"
                given = with_usual_ids(options._replace(est_server=options.est_server or _NOWHERE, rotation_id=None))
            request = read_request(source, given, token=token, default_rotation_id="none")
            if request is None:
                raise RequestRefusedError(f"{origin} is gone")
            est_server = None if given.est_server == _NOWHERE else request.est_server
            return cls(origin, est_server, request.key_ids, request.certificate_ids)
        except OSError as error:
            problem = f"{path} cannot be read: {error.strerror}; run this as root"
        except RequestRefusedError as error:
            problem = str(error)
        ids = tuple(KEY_IDS.split(",")), tuple(CERTIFICATE_IDS.split(","))
        return cls("the usual ids", None, *(ids if token else ((), ())), problem=problem)
