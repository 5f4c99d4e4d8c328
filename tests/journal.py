"""The journal of a simulated device: read, and changed as no program would."""

import json

from handler.journal import pending
from handler.journal.records import replace_all


def path(storage):
    """Give where it is."""
    return storage / pending.FOLDER / pending.JOURNAL


def read(storage):
    """Give what it says, None if nothing is pending."""
    return pending.load(storage)


def kept(storage):
    """Give the rotation that was rolled back and is kept, None if there is none."""
    content = read(storage)
    return None if content is None or content.get("kept") is None else content["kept"]["rotation"]


def is_idle(storage):
    """Tell whether nothing is pending, whatever is kept."""
    content = read(storage)
    return content is None or not (content["rotation"] or content["requested"] or content["events"])


def write(storage, content):
    """Have it say that, in one record."""
    changed = {name: value for name, value in content.items() if name != "events"}
    replace_all(path(storage), {**changed, "version": pending.VERSION, "add": content["events"]})


def write_earlier(storage, content):
    """Have one of 0.1.0 say that in its place: a text, or what becomes JSON."""
    path(storage).unlink(missing_ok=True)
    earlier = path(storage).with_name(pending.EARLIER)
    earlier.parent.mkdir(mode=0o700, exist_ok=True)
    earlier.write_text(content if isinstance(content, str) else json.dumps({**content, "version": 1}))
