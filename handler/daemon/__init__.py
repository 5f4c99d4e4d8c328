"""The daemon: waits in little memory and runs `resume` in a child process."""
