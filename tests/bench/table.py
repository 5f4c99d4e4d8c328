"""The figures as tables in Markdown."""

from collections.abc import Iterable, Sequence

from .disk import SECONDS
from .results import KEYS, LOGINS, SIGNATURES, Results

# What tokens take their time for, and what finds it.
_CALLS = {
    SIGNATURES: "signatures (C_SignInit)",
    "C_DeriveKey": "ECDH (C_DeriveKey)",
    "C_GenerateKeyPair": "key pairs made (C_GenerateKeyPair)",
    LOGINS: "logins (C_Login)",
    "C_OpenSession": "sessions (C_OpenSession)",
    "C_CreateObject": "objects written (C_CreateObject)",
    "C_DestroyObject": "objects removed (C_DestroyObject)",
    "C_FindObjectsInit": "searches (C_FindObjectsInit)",
    "C_GetAttributeValue": "attributes read (C_GetAttributeValue)",
}


def tables(results: Results) -> str:
    """Give all tables, each below its heading."""
    parts = [
        ("Goals", _goals(results)),
        ("One rotation", _rotations(results)),
        ("Tokens that take their time", _slow(results)),
        ("Calls of the token", _calls(results)),
        ("The disk", _disk(results)),
        ("The daemon while it waits", _waiting(results)),
        ("Imports", _imports(results)),
    ]
    return "\n".join(f"### {heading}\n\n{table}" for heading, table in parts)


def _goals(results: Results) -> str:
    rows = ([each.what, each.found, each.wanted, "met" if each.met else "**not met**"] for each in results.goals())
    return _table(["", "found", "goal", ""], rows)


def _rotations(results: Results) -> str:
    head, rows = ["keys", "delay", "program", "TLS connections", "requests", "time", "CPU time", "peak memory"], []
    for keys in KEYS:
        for delay in results.delays:
            for client in results.clients:
                found = results.figures(client, keys, delay)
                counts = [f"{found.connections:.0f}", f"{found.requests:.0f}"]
                used = [f"{found.wall:.2f} s", f"{found.cpu:.2f} s", f"{found.memory:.1f} MB"]
                rows.append([keys, f"{delay * 1000:.0f} ms", client, *counts, *used])
    return _table(head, rows)


def _slow(results: Results) -> str:
    rows = (
        [str(speed), client, f"{each.calls:.0f}", f"{each.operations:.0f}", f"{each.wall:.2f} s"]
        for (client, speed), each in results.slow.items()
    )
    return _table(["token", "program", "calls", "of them operations with a key", "time"], rows)


def _calls(results: Results) -> str:
    every = results.calls.values()
    rows = [[text, *(str(each[call]) for each in every)] for call, text in _CALLS.items()]
    rows.append(["all calls", *(str(each.total()) for each in every)])
    return _table(["", *results.calls], rows)


def _disk(results: Results) -> str:
    rows = (
        [keys, client, f"{each.flushes:.0f}", f"{each.renames:.0f}", f"{each.wall:.2f} s"]
        for (client, keys), each in results.disk.items()
    )
    head = ["keys", "program", "flushes (fsync, fdatasync)", "renames", f"time at {SECONDS * 1000:.0f} ms a flush"]
    return _table(head, rows)


def _waiting(results: Results) -> str:
    rows = ([name, f"{each.resident:.1f} MB", f"{each.share:.1f} MB"] for name, each in results.waiting.items())
    return _table(["it waits for", "resident (VmRSS)", "its share (Pss)"], rows)


def _imports(results: Results) -> str:
    head = ["keys", "all", "modules", "the most expensive packages, in ms, without what they import"]
    rows = []
    for keys, each in results.imports.items():
        packages = ", ".join(f"{name} {seconds * 1000:.0f}" for name, seconds in each.by_package.items())
        rows.append([keys, f"{each.total * 1000:.0f} ms", str(each.modules), packages])
    return _table(head, rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
