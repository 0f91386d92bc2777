"""Programs that leave nothing behind: process groups, a guard, and TCP ports for them.

Every program is started in a session (and so a process group) of its own, which the programs that
it starts inherit. `Programs.stop` sends SIGTERM to all groups, waits, sends SIGKILL to all groups,
and reaps. Ctrl-C in a terminal reaches only this process, which then stops the groups in order.

If this process itself is killed, a small guard process, which holds the other end of a pipe and
sees it close, does the same. (``PR_SET_PDEATHSIG`` was considered: it exists on Linux alone,
covers only direct children, fires when the *thread* that started a child ends, and needs
``preexec_fn``, which can deadlock in a process with threads.)

Works on POSIX systems; Windows has no process groups.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rtc_flower.errors import DeploymentError

__all__ = ["Program", "Programs", "free_ports", "require_free", "require_listening"]

HOST = "127.0.0.1"
GRACE = 4.0  # seconds between SIGTERM and SIGKILL
AFTER_KILL = 0.3  # seconds for SIGKILL to take effect

_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
# Below the ports that Linux and macOS give to outgoing connections, so that nobody takes one
# between our choosing it and the program's binding it.
_PORTS = range(20000, 32768)

# Reads "+group" and "-group" lines; when the pipe closes, ends the groups that are still there.
_GUARD = """
import os, shutil, signal, sys, time
for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
groups = set()
for line in sys.stdin:
    (groups.add if line[0] == "+" else groups.discard)(int(line[1:]))
for number, pause in ((signal.SIGTERM, float(sys.argv[1])), (signal.SIGKILL, 0.2)):
    for group in groups:
        try:
            os.killpg(group, number)
        except OSError:
            pass
    time.sleep(pause if groups else 0)
for folder in sys.argv[2:]:
    shutil.rmtree(folder, ignore_errors=True)
"""


def free_ports(count: int) -> list[int]:
    """Return `count` different TCP ports of 127.0.0.1 that are free now.

    Raises
    ------
    DeploymentError
        When there are not so many between 20000 and 32767.
    """
    found: list[int] = []
    for port in random.sample(_PORTS, len(_PORTS)):
        if len(found) == count:
            break
        if _is_free(port):
            found.append(port)
    if len(found) < count:
        raise DeploymentError(f"{count} ports are needed and {len(found)} are free on {HOST}")
    return found


def require_free(port: int, option: str) -> None:
    """Raise unless `port` of 127.0.0.1 can be listened on.

    Parameters
    ----------
    port : int
        The port that was asked for.
    option : str
        Where it was asked for, for the message.

    Raises
    ------
    DeploymentError
        When another program has it, or this user may not use it.
    """
    if not _is_free(port):
        raise DeploymentError(
            f"port {port} of {HOST} ({option}) is in use: stop the program that listens there, "
            f"or set {option} to another port, or leave it out to have a free one chosen"
        )


def require_listening(host: str, port: int) -> None:
    """Raise unless something accepts connections at `host`:`port` within 2 seconds.

    Raises
    ------
    DeploymentError
        When nobody does.
    """
    try:
        socket.create_connection((host, port), timeout=2).close()
    except OSError as error:
        raise DeploymentError(
            f"nobody listens on {host}:{port} ({error.strerror or error}): start flower-superlink "
            "there, or correct the address"
        ) from error


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As the programs do: a port whose last connections are still closing counts as free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


@dataclass(frozen=True)
class Program:
    """A running program, leader of its own session and process group.

    Attributes
    ----------
    name : str
        Its name, and that of its log.
    process : subprocess.Popen
        The leader of the group.
    log : Path
        Where its standard output and error go.
    start : int
        Size of the log in bytes when it was started: an earlier one wrote what is before.
    """

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    start: int

    @property
    def alive(self) -> bool:
        """Whether the leader is running."""
        return self.process.poll() is None

    def output(self) -> str:
        """Return what it has written so far, without colours."""
        with self.log.open("rb") as stream:
            stream.seek(self.start)
            return plain(stream.read())

    def tail(self, lines: int = 15) -> str:
        """Return the last lines of its log under a heading, for an error message."""
        told = [line for line in self.output().splitlines() if line.strip()]
        return f"last lines of {self.log}:\n" + "\n".join(told[-lines:])

    def send(self, number: int) -> bool:
        """Signal the whole group; False when nobody is left in it."""
        try:
            os.killpg(self.process.pid, number)
        except (ProcessLookupError, PermissionError):
            return False
        return True


def plain(text: bytes) -> str:
    """Decode what a program wrote and take the colours out."""
    return _ANSI.sub("", text.decode(errors="replace"))


def _wait_while(condition: Callable[[], bool], seconds: float) -> None:
    give_up = time.monotonic() + seconds
    while condition() and time.monotonic() < give_up:
        time.sleep(0.02)


class Programs:
    """The programs of one deployment, by name, and the guard that outlives us.

    Parameters
    ----------
    work_dir : Path
        Their working folder; their logs go to its ``logs/``.
    scratch : Sequence[str]
        Folders that are deleted when everything has been stopped.
    """

    def __init__(self, work_dir: Path, scratch: Sequence[str] = ()) -> None:
        self._work_dir = work_dir
        self._running: dict[str, Program] = {}
        (work_dir / "logs").mkdir(parents=True, exist_ok=True)
        self._guard = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _GUARD, str(GRACE), *scratch],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            bufsize=0,
        )

    def get(self, name: str) -> Program | None:
        """Return the program started last under that name, unless it was ended."""
        return self._running.get(name)

    def launch(self, name: str, command: Sequence[str], env: Mapping[str, str]) -> Program:
        """Start a program, whose executable is looked for on the PATH of `env`.

        Raises
        ------
        DeploymentError
            When it cannot be started.
        """
        executable = shutil.which(command[0], path=env["PATH"]) or command[0]
        log = self._work_dir / "logs" / f"{name}.log"
        with log.open("ab") as sink:
            start = sink.tell()
            try:
                process = subprocess.Popen(
                    [executable, *command[1:]],
                    cwd=self._work_dir,
                    env=env,
                    stdin=subprocess.DEVNULL,
                    stdout=sink,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            except OSError as error:
                raise DeploymentError(f"{name}: cannot start {executable}: {error}") from error
        program = self._running[name] = Program(name, process, log, start)
        self._tell_guard(f"+{process.pid}\n")
        return program

    def end(self, name: str) -> None:
        """SIGKILL one program and all that it started; nothing if it was ended before."""
        if program := self._running.get(name):
            self._kill([program])

    def stop(self) -> None:
        """End all: SIGTERM, at most `GRACE` seconds of patience, SIGKILL, and reap."""
        programs = list(self._running.values())
        try:
            for program in programs:
                program.send(signal.SIGTERM)
            _wait_while(lambda: any(program.alive for program in programs), GRACE)
        finally:
            self._kill(programs)
            self._guard.communicate()  # closes the pipe and waits

    def _kill(self, programs: Sequence[Program]) -> None:
        for program in programs:
            program.send(signal.SIGKILL)
        for program in programs:
            program.process.wait()
            self._running.pop(program.name, None)
            self._tell_guard(f"-{program.process.pid}\n")
        # The others of a group die with it, but stay visible until init has reaped them, which
        # some containers never do: there is nothing to wait for beyond their death.
        _wait_while(lambda: any(program.send(0) for program in programs), AFTER_KILL)

    def _tell_guard(self, line: str) -> None:
        with contextlib.suppress(OSError):  # somebody killed the guard: we still clean up
            assert self._guard.stdin is not None
            self._guard.stdin.write(line.encode())
