"""The merged TOML configuration: read, checked, changed."""
