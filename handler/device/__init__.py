"""What is on the device: configuration, keys in files, storage, services."""
