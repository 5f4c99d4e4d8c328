"""The installed package under a real systemd, as PID 1 of its own namespaces: `make test-systemd`, as root."""
