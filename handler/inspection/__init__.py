"""The state of the device, for commands that change nothing."""
