"""Exit statuses, all of them. docs/reference.md says the same.

75 and 78 are EX_TEMPFAIL and EX_CONFIG, 64 is EX_USAGE (sysexits.h); 123 is what fioconfig expects of a handler that
changed the key; 141 is what a shell shows for a program that SIGPIPE ended.
"""

DONE = 0
"""Done, or nothing to do; of a command that shows something: shown."""
BUG = 1
USAGE = 64
PENDING = 75
"""It will be resumed; where nothing was begun, the same call may succeed later."""
REFUSED = 78
"""The request, the configuration or a server's answer has to be changed first."""
SWITCHED = 123
"""Called by fioconfig, and this call switched the key: fioconfig must exit and restart."""
UNREAD = 141
"""The reader of the output has gone."""

ALL_OK, WARNINGS, PROBLEMS = 0, 1, 2
"""Of `check`."""
