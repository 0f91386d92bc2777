"""Start and stop a real Flower deployment on this machine: one SuperLink, several SuperNodes.

`Deployment` runs Flower's own programs, the ones an operator would type into several terminals,
on free ports of 127.0.0.1, runs an app on them and takes everything down again::

    with Deployment("examples/mnist", [Node({"model": "cnn"}), Node({"model": "svm"})],
                    work_dir="runs/demo") as deployment:
        for line in deployment.run({"num-rounds": 1}):
            print(line)

Every program is a process group of its own (`rtc_flower.processes`). To keep that true the
SuperLink runs with ``--isolation process`` beside a ``flower-superexec`` of ours: on its own it
would start that program in a new session, which no signal to its group reaches.
"""

from __future__ import annotations

import http.client
import importlib.util
import json
import math
import os
import re
import shutil
import signal
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

from rtc_flower.errors import DeploymentError
from rtc_flower.processes import (
    HOST,
    Program,
    Programs,
    free_ports,
    plain,
    require_free,
    require_listening,
)

__all__ = ["Deployment", "Node", "render_config"]

Value = str | int | float | bool

_COMMANDS = ("flwr", "flower-superlink", "flower-supernode", "flower-superexec")
_CONNECTION = "deployment"
_POLL = 0.1  # seconds between two looks at a log or at the SuperLink
_KEY = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
_STARTED = re.compile(r"Successfully started run (\d+)")
_ONLINE = re.compile(r"SuperNode ID: (\d+)")


def render_config(values: Mapping[str, Value]) -> str:
    r"""Write values as Flower's ``--node-config``, ``--run-config`` and ``--federation-config``.

    Flower splits that string at spaces with a regular expression that knows no escaped quotes, and
    reads the pieces as TOML. Strings are therefore quoted, in ASCII, with ``\uXXXX`` for every
    character that either of the two could misread, so that any text arrives as it was.

    Parameters
    ----------
    values : Mapping[str, str | int | float | bool]
        Keys are TOML bare keys (letters, digits, ``_``, ``-``), which dots may join.

    Raises
    ------
    DeploymentError
        For a key or a value that Flower cannot carry.
    """
    return " ".join(f"{_checked_key(key)}={_literal(key, value)}" for key, value in values.items())


def _checked_key(key: str) -> str:
    if not _KEY.fullmatch(key):
        raise DeploymentError(
            f"configuration key {key!r}: expected letters, digits, '-' and '_', joined by dots"
        )
    return key


def _literal(key: str, value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if type(value) is int and -(2**63) <= value < 2**63:
        return str(value)
    if type(value) is float and math.isfinite(value):
        return repr(value)
    if type(value) is str and not any(0xD800 <= ord(char) < 0xE000 for char in value):
        return '"' + "".join(_character(char) for char in value) + '"'
    raise DeploymentError(
        f"configuration value {key}={value!r} ({type(value).__name__}): expected a str, a bool, "
        "a finite float or an int of 64 bits"
    )


def _character(char: str) -> str:
    if " " <= char <= "~" and char not in '"\\':
        return char
    return f"\\u{ord(char):04x}" if ord(char) < 0x10000 else f"\\U{ord(char):08x}"


@dataclass(frozen=True)
class Node:
    """One SuperNode.

    Attributes
    ----------
    config : Mapping[str, str | int | float | bool]
        Its ``--node-config``.
    env : Mapping[str, str]
        Environment variables of this node alone; they win over the deployment's.
    python_path : Sequence[str | Path]
        Folders put before everything else on this node's import path: packages that only this
        node has.
    port : int, optional
        Port of its local Runtime API; a free one when left out.
    late : bool
        Not started with the others, but by `Deployment.start_node`.
    superlink : str, optional
        ``host:port`` that it connects to instead of the SuperLink's own: a proxy or tunnel to it.
    """

    config: Mapping[str, Value] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    python_path: Sequence[str | Path] = ()
    port: int | None = None
    late: bool = False
    superlink: str | None = None


class Deployment:
    """A SuperLink and its SuperNodes as processes of this machine; a context manager.

    Parameters
    ----------
    app_dir : str or Path
        The Flower app: a folder with a ``pyproject.toml``.
    nodes : Sequence[Node] or int
        The SuperNodes; a number stands for as many nodes without configuration.
    work_dir : str or Path
        Made when missing. Receives ``logs/`` (a file per program) and ``flwr/`` (a Flower home per
        program: of two that share one, the second may import an app that the first is still
        unpacking). It is also the working folder of every program.
    run_config : Mapping, optional
        Values for every run; keys of the app's ``[tool.flwr.app.config]``.
    superlink_port : int, optional
        A free port when left out.
    simulation : bool
        Run the same app in Flower's Ray simulation with as many virtual nodes. Flower gives those
        their partition and nothing else, so nodes may have no settings. The SuperLink is a
        process of ours here too; none is left running.
    wait_for_nodes : bool
        Whether entering waits until all nodes are online. Otherwise they come up while the app
        starts, which must then wait for them itself; `run` raises when one dies before it was
        online.
    startup_timeout : float
        Seconds until the SuperLink, and the nodes that are waited for, must be ready.

    Notes
    -----
    While it is open in the main thread, SIGTERM raises `SystemExit` (unless the program has a
    handler of its own), so that leaving the ``with`` block cleans up.
    """

    def __init__(
        self,
        app_dir: str | Path,
        nodes: Sequence[Node] | int,
        *,
        work_dir: str | Path,
        run_config: Mapping[str, Value] | None = None,
        superlink_port: int | None = None,
        simulation: bool = False,
        wait_for_nodes: bool = True,
        startup_timeout: float = 60.0,
    ) -> None:
        self.app_dir = Path(app_dir).resolve()
        self.nodes = (Node(),) * nodes if isinstance(nodes, int) else tuple(nodes)
        self.work_dir = Path(work_dir).resolve()
        self.simulation = simulation
        self.port = superlink_port or 0
        self._run_config = dict(run_config or {})
        self._wait_for_nodes = wait_for_nodes
        self._startup_timeout = startup_timeout
        self._coming: set[int] = set()  # nodes that were started and have not been online yet
        self._ports: list[int] = []
        self._open: Programs | None = None
        self._ray_dir: str | None = None
        self._has_sigterm = False
        self._server_killed = False
        self._runs = 0

    def __enter__(self) -> Self:
        if self._open is not None:
            raise RuntimeError("this Deployment is already open")
        self._check_input()
        self._take_sigterm()
        try:
            self._start(time.monotonic() + self._startup_timeout)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def address(self) -> str:
        """Where the SuperLink listens, as ``host:port``."""
        return f"{HOST}:{self.port}"

    @property
    def node_ids(self) -> dict[int, int]:
        """Flower's node id of every SuperNode that is running and was online, by its index."""
        found = {}
        for index in range(len(self.nodes)):
            program = self._programs.get(f"node-{index}")
            if program and program.alive and (online := _ONLINE.search(program.output())):
                found[index] = int(online[1])
        return found

    def run(
        self, run_config: Mapping[str, Value] | None = None, *, timeout: float | None = None
    ) -> Iterator[str]:
        """Run the app once and yield the lines of its log, without colours and blank lines.

        Leaving the loop early stops watching, not the run, which ends with the deployment.

        Parameters
        ----------
        run_config : Mapping, optional
            Added to, and winning over, the `run_config` of the deployment.
        timeout : float, optional
            Seconds that the run may take.

        Raises
        ------
        DeploymentError
            When the run did not start or did not complete, with Flower's reason and the end of its
            log; when the SuperLink died; after `kill_server_app`.
        """
        self._require_serving()
        self._runs += 1
        self._server_killed = False
        command = self._run_command(self._run_config | dict(run_config or {}))
        program = self._launch(f"run-{self._runs}", command)
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        programs = self._programs
        try:
            yield from self._follow(program, deadline)
            self._require_completed(program)
        finally:
            programs.end(program.name)

    def start_node(self, index: int) -> None:
        """Start a node that is late or was killed, and wait until it is online.

        It comes back with a new Flower node id.
        """
        self._require_serving()
        if self.simulation or index in self.node_ids:
            raise RuntimeError(f"node {index} is simulated or already running")
        self._launch_node(index)
        self._wait_online([index], time.monotonic() + self._startup_timeout)

    def kill_node(self, index: int) -> None:
        """SIGKILL a SuperNode and every process that it started, as a crash would."""
        self._coming.discard(index)
        self._programs.end(f"node-{index}")

    def kill_server_app(self) -> None:
        """SIGKILL the ServerApp that is running, as a crash would, and make `run` raise.

        The ``flower-superexec`` that started it dies with it and is started again, so another
        `run` can follow at once. The SuperLink notices within a minute that the old run died.
        """
        self._server_killed = True  # first: `run` may be followed in another thread
        self._programs.end("superexec")
        self._launch_superexec()

    def stop(self) -> None:
        """End every process: SIGTERM, at most 4 seconds of patience, SIGKILL. Can be repeated."""
        try:
            if self._open is not None:
                self._open.stop()
        finally:
            self._open = None
            if self._ray_dir:
                shutil.rmtree(self._ray_dir, ignore_errors=True)
            if self._has_sigterm:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                self._has_sigterm = False

    @property
    def _programs(self) -> Programs:
        if self._open is None:
            raise RuntimeError("this Deployment is not open: use it in a with statement")
        return self._open

    def _take_sigterm(self) -> None:
        main = threading.current_thread() is threading.main_thread()
        if main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, _exit_on_signal)
            self._has_sigterm = True

    # What must hold before anything is started

    def _check_input(self) -> None:
        if not (self.app_dir / "pyproject.toml").is_file():
            raise DeploymentError(f"{self.app_dir} is not a Flower app: it has no pyproject.toml")
        for name in _COMMANDS:
            if shutil.which(name, path=_search_path()) is None:
                raise DeploymentError(
                    f"{name} is not on PATH ({_search_path()}): install flwr into the environment "
                    f"of {sys.executable}"
                )
        if self.simulation:
            self._check_simulation()
        for values in (self._run_config, *(node.config for node in self.nodes)):
            render_config(values)
        self._check_partitions()
        self._choose_ports()

    def _check_partitions(self) -> None:
        """Two nodes with one part would vote twice with the same private data."""
        owners: dict[Value, int] = {}
        for index, node in enumerate(self.nodes):
            part = node.config.get("partition-id")
            if part is not None and (first := owners.setdefault(part, index)) != index:
                raise DeploymentError(
                    f"node {first} and node {index} both have partition-id {part}: give every "
                    "node its own"
                )

    def _check_simulation(self) -> None:
        if importlib.util.find_spec("ray") is None:
            raise DeploymentError("the simulation needs ray: pip install 'rtc-flower[simulation]'")
        if any(node != Node() for node in self.nodes):
            raise DeploymentError(
                "in simulation Flower gives a node its partition and nothing else: pass the number "
                "of nodes, and put what they need into run_config"
            )

    def _choose_ports(self) -> None:
        asked = {"superlink_port": self.port} if self.port else {}
        asked |= {f"the port of node {i}": n.port for i, n in enumerate(self.nodes) if n.port}
        for option, port in asked.items():
            first = next(name for name in asked if asked[name] == port)
            if first != option:
                raise DeploymentError(f"{first} and {option} are both {port}: use two ports")
            require_free(port, option)
        count = 1 + len(self.nodes) + len(asked)
        free = [port for port in free_ports(count) if port not in asked.values()]
        self.port = self.port or free.pop()
        self._ports = [node.port or free.pop() for node in self.nodes]

    # Starting

    def _start(self, deadline: float) -> None:
        home = self.work_dir / "flwr" / "run"
        home.mkdir(parents=True, exist_ok=True)
        (home / "config.toml").write_text(
            f'[superlink]\ndefault = "{_CONNECTION}"\n\n'
            f'[superlink.{_CONNECTION}]\naddress = "{self.address}"\ninsecure = true\n'
        )
        if self.simulation:
            # Not under work_dir: Ray makes Unix sockets there, whose paths are at most 107 bytes.
            self._ray_dir = tempfile.mkdtemp(prefix="rtc-")
        self._open = Programs(self.work_dir, [self._ray_dir] if self._ray_dir else [])
        flags = ["--insecure", "--isolation", "process", "--host", HOST, "--port", str(self.port)]
        flags += ["--simulation"] if self.simulation else []
        self._launch("superlink", ["flower-superlink", *flags])
        self._launch_superexec()
        self._wait(["superlink", "superexec"], self._is_healthy, deadline)
        early = [i for i, node in enumerate(self.nodes) if not (node.late or self.simulation)]
        for index in early:
            self._launch_node(index)
        if self._wait_for_nodes:
            self._wait_online(early, deadline)

    def _launch_superexec(self) -> None:
        superlink = self._programs.get("superlink")
        flags = ["--insecure", "--runtime-api-address", self.address]
        flags += ["--parent-pid", str(superlink.process.pid)] if superlink else []
        self._launch("superexec", ["flower-superexec", *flags])

    def _launch_node(self, index: int) -> None:
        node = self.nodes[index]
        superlink = node.superlink or self.address
        flags = ["--insecure", "--superlink", superlink, "--port", str(self._ports[index])]
        flags += ["--node-config", render_config(node.config)] if node.config else []
        folders = [str(Path(folder).resolve()) for folder in node.python_path]
        inherited = node.env.get("PYTHONPATH") or os.environ.get("PYTHONPATH")
        path = os.pathsep.join([*folders, *([inherited] if inherited else [])])
        env = dict(node.env) | ({"PYTHONPATH": path} if path else {})
        self._launch(f"node-{index}", ["flower-supernode", *flags], env)
        self._coming.add(index)

    def _launch(
        self, name: str, command: Sequence[str], env: Mapping[str, str] | None = None
    ) -> Program:
        return self._programs.launch(name, command, self._environment(name) | dict(env or {}))

    def _environment(self, name: str) -> dict[str, str]:
        home = "run" if name.startswith("run-") else name
        env = dict(os.environ) | {
            "PATH": _search_path(),
            "FLWR_HOME": str(self.work_dir / "flwr" / home),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
            "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.25",  # costs 1 ms of processor per second
            "PYTHONUNBUFFERED": "1",  # else `flwr run` shows the log of a run when it is over
            "PYTHONUTF8": "1",
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        for variable in ("NO_PROXY", "no_proxy"):  # a proxy would be asked for our own addresses
            env[variable] = ",".join(filter(None, [env.get(variable), HOST]))
        if self._ray_dir:
            env["RAY_TMPDIR"] = self._ray_dir
            env.pop("RAY_ADDRESS", None)
        return env

    # Watching

    def _is_healthy(self) -> bool:
        connection = http.client.HTTPConnection(HOST, self.port, timeout=2)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == http.client.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _wait_online(self, indices: Sequence[int], deadline: float) -> None:
        names = ["superlink", *(f"node-{index}" for index in indices)]
        self._wait(names, lambda: self.node_ids.keys() >= set(indices), deadline)

    def _wait(self, names: Sequence[str], ready: Callable[[], bool], deadline: float) -> None:
        while not ready():
            for name in names:
                self._require_alive(name)
            if time.monotonic() > deadline:
                slow = [program for name in names if (program := self._programs.get(name))]
                raise DeploymentError(
                    f"not ready after {self._startup_timeout:g} s (raise startup_timeout?); "
                    + "\n".join(program.tail(5) for program in slow)
                )
            time.sleep(_POLL)

    def _require_alive(self, name: str) -> None:
        program = self._programs.get(name)
        if program is None:
            raise DeploymentError(f"{name} is not running")
        if not program.alive:
            code = program.process.returncode
            raise DeploymentError(f"{name} ended with exit code {code}; {program.tail()}")

    def _require_serving(self) -> None:
        self._require_alive("superlink")
        self._require_alive("superexec")
        require_listening(HOST, self.port)

    def _run_command(self, run_config: Mapping[str, Value]) -> list[str]:
        command = ["flwr", "run", str(self.app_dir), _CONNECTION, "--stream"]
        if run_config:
            command += ["--run-config", render_config(run_config)]
        if self.simulation:
            federation = {"num-supernodes": len(self.nodes), "client-resources-num-cpus": 1}
            command += ["--federation-config", render_config(federation)]
        return command

    def _follow(self, program: Program, deadline: float) -> Iterator[str]:
        with program.log.open("rb") as stream:
            stream.seek(program.start)
            rest, ended = b"", False
            while not ended:
                ended = not program.alive  # looked at before reading, so that nothing is missed
                *lines, rest = (rest + stream.read()).split(b"\n")
                for line in [*lines, rest] if ended else lines:
                    if text := plain(line).rstrip():
                        yield text
                    self._require_server_app()
                self._require_server_app()
                self._require_programs()
                if time.monotonic() > deadline:
                    raise DeploymentError(f"the run takes longer than asked for; {program.tail()}")
                time.sleep(0 if ended else _POLL)

    def _require_programs(self) -> None:
        if self._coming:
            self._coming -= self.node_ids.keys()
        for name in ("superlink", "superexec", *(f"node-{index}" for index in self._coming)):
            self._require_alive(name)

    def _require_server_app(self) -> None:
        if self._server_killed:
            raise DeploymentError(f"the ServerApp of run-{self._runs} was killed")

    def _require_completed(self, program: Program) -> None:
        """Ask the SuperLink: `flwr run` exits with 0 even when the run failed."""
        started = _STARTED.search(program.output())
        if started is None:
            raise DeploymentError(f"flwr run did not start a run; {program.tail()}")
        run = self._describe_run(started[1])
        if run.get("status") != "finished:completed":
            raise DeploymentError(
                f"run {started[1]} ended as {run.get('status')}: {run.get('status-details')}; "
                + program.tail()
            )

    def _describe_run(self, run_id: str) -> dict[str, Any]:
        command = ["flwr", "ls", _CONNECTION, "--run-id", run_id, "--format", "json"]
        program = self._launch(f"run-{self._runs}-outcome", command)
        try:
            self._wait([], lambda: not program.alive, time.monotonic() + self._startup_timeout)
            told = program.output()
            run: dict[str, Any] = json.loads(told[told.index("{") :])["runs"][0]
        except (ValueError, LookupError) as error:
            raise DeploymentError(f"flwr ls gave no outcome; {program.tail()}") from error
        finally:
            self._programs.end(program.name)
        return run


def _search_path() -> str:
    """PATH with this environment's programs first: Flower looks for its own programs there."""
    return os.pathsep.join(filter(None, [sysconfig.get_path("scripts"), os.environ.get("PATH")]))


def _exit_on_signal(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
