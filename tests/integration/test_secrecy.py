"""A core dump would hold what a process has read, also the PIN: none is made, however the program ends."""

import contextlib
import os
import signal
import subprocess
import threading

import pytest

ID = "certs-secrecy"
COMMANDS = {
    "handler": (),
    "rotate": ("rotate",),
    "resume": ("resume",),
    "offline": ("resume", "--offline"),
    "abort": ("abort",),
    "daemon": ("daemon",),
    "status": ("status",),
    "check": ("check",),
    "slots": ("slots",),
    "log": ("log",),
}


MAY_DUMP = ("sh", "-c", 'ulimit -S -c "$(ulimit -H -c)"; exec "$@"', "sh")


@contextlib.contextmanager
def enrolling(factory, folder, *command, until):
    """Run the handler below a command, in that folder, up to its request to the EST server."""
    factory.device.write_request(ID)
    go_on = threading.Event()
    fault = factory.est.faults.add("POST", "/simplereenroll", hang=go_on)
    folder.mkdir()
    with subprocess.Popen(
        [*command, *factory.device.command()],
        env=factory.device.environment(),
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            until(lambda: fault.used)
            yield process
        finally:
            go_on.set()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_forbids_dumps_before_it_reads_the_configuration(token, command, tmp_path):
    token.device.write_request(ID)
    environment = token.device.environment()
    del environment["STORAGE_DIR"]  # as a person calls it, so that the daemon too asks the configuration
    log = tmp_path / "calls"
    strace = ["strace", "-qq", "-o", str(log), "-e", "trace=prctl,prlimit64,setrlimit,openat"]
    subprocess.run(
        [*strace, *token.device.command(*COMMANDS[command])],
        env=environment,
        cwd=tmp_path,
        check=False,
        timeout=90,
        capture_output=True,
    )
    calls = log.read_text().splitlines()

    def first(*words):
        return next(at for at, call in enumerate(calls) if all(word in call for word in words))

    read = first("40-hsm.toml")  # where the PIN is
    assert first("PR_SET_DUMPABLE, SUID_DUMP_DISABLE", "= 0") < read
    assert first("RLIMIT_CORE", "rlim_cur=0, rlim_max=0", "= 0") < read


def test_a_handler_that_a_fault_ends_dumps_nothing(token, tmp_path, until):
    with enrolling(token, tmp_path / "here", *MAY_DUMP, until=until) as process:
        process.send_signal(signal.SIGSEGV)
        status = os.waitpid(process.pid, 0)[1]
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == -signal.SIGSEGV
    assert not os.WCOREDUMP(status)
    assert list((tmp_path / "here").iterdir()) == []
