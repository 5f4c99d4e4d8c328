"""The device as commands see it that only look."""
