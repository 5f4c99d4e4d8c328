"""The daemon: waits in little memory and has a child resume."""
