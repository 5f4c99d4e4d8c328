"""The check of a folder that a rotation writes to, and of the file system that it is on."""

import os
from pathlib import Path

from handler.device.storage import check_durable, why_not
from handler.errors import RequestRefusedError

from .result import OK, PROBLEM, WARNING, Found

KIB = 1024
LEAST_FREE = 256 * KIB
"""Room for the journal, the history, a key and a certificate."""
ENOUGH_FREE = 4096 * KIB
LEAST_FILES = 16


def disk_finding(folder: Path) -> Found:  # noqa: PLR0911 - one for each finding
    """Check one folder and its file system."""
    try:
        disk = os.statvfs(f"{folder}/.")  # fails for a file
    except OSError as error:
        return PROBLEM, f"{folder}: {error.strerror}; check storage.path"
    if disk.f_flag & os.ST_RDONLY:
        return PROBLEM, f"{folder} is on a file system that is mounted read-only: mount it writable"
    if not os.access(folder, os.W_OK | os.X_OK, effective_ids=True):
        return PROBLEM, f"{folder} cannot be written by user {os.geteuid()}: {why_not()}"
    try:
        check_durable(folder)
    except RequestRefusedError as error:
        return PROBLEM, str(error)
    free = disk.f_bavail * disk.f_frsize
    if free < LEAST_FREE or (disk.f_files and disk.f_favail < LEAST_FILES):
        return PROBLEM, f"{folder}: {free // KIB} KiB and {disk.f_favail} inodes free: free some space"
    if free < ENOUGH_FREE:
        return WARNING, f"{folder}: only {free // KIB} KiB free: free some space"
    return OK, f"{folder} can be written, {free // KIB // KIB} MiB free"
