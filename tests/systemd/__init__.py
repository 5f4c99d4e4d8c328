"""The installed package under a real systemd, as PID 1 of namespaces of its own: `make test-systemd`, as root."""
