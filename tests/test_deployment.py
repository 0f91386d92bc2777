"""`rtc_flower.deployment` and `rtc_flower.processes`: real programs, and nothing left of them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flwr.common.config import parse_config_args
from hypothesis import given
from hypothesis import strategies as st

from rtc_flower.deployment import Deployment, Node, render_config
from rtc_flower.errors import DeploymentError
from rtc_flower.processes import Programs, free_ports, require_free, require_listening

PING = Path(__file__).parent / "apps" / "ping"

KEYS = st.from_regex(r"[A-Za-z0-9_-]{1,8}", fullmatch=True)
VALUES = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
)


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def alive_in(folder: Path) -> list[str]:
    """Command lines of the processes that work in `folder` or below and are not zombies."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            inside = Path(os.readlink(entry / "cwd")).is_relative_to(folder)
            if inside and (entry / "stat").read_text().rsplit(")", 1)[1].split()[0] != "Z":
                found.append((entry / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


def assert_nothing_left(folder: Path, patience: float = 0.0) -> None:
    give_up = time.monotonic() + patience
    while (left := alive_in(folder)) and time.monotonic() < give_up:
        time.sleep(0.1)
    assert left == []


# Configuration strings


@given(st.dictionaries(KEYS, VALUES, max_size=5))
def test_flower_reads_back_every_configuration(values: dict[str, Any]) -> None:
    assert parse_config_args([render_config(values)]) == values


@pytest.mark.parametrize(
    "text", ["a b", "it's", 'say "x"', "k=v l=w", "", "line\nend", "back\\slash", "é🌸", "f.toml"]
)
def test_awkward_text_arrives_as_it_was(text: str) -> None:
    rendered = render_config({"before": 1, "a.b": text, "after": True})
    assert parse_config_args([rendered]) == {"before": 1, "a.b": text, "after": True}


@pytest.mark.parametrize("value", [None, [1], 2**63, float("nan"), float("inf"), "\ud800", b"x"])
def test_a_value_that_flower_cannot_carry_is_named(value: Any) -> None:
    with pytest.raises(DeploymentError, match="data-path="):
        render_config({"data-path": value})


@pytest.mark.parametrize("key", ["", "a b", "a=b", "é", ".a", 'q"'])
def test_a_key_that_flower_cannot_carry_is_named(key: str) -> None:
    with pytest.raises(DeploymentError, match="configuration key"):
        render_config({key: 1})


# Ports and other input


def test_free_ports_are_different_and_can_be_listened_on() -> None:
    ports = free_ports(20)
    assert len(set(ports)) == 20
    for port in ports[:3]:
        require_free(port, "superlink_port")


def test_a_port_in_use_is_named_before_anything_is_started(taken_port: int, tmp_path: Path) -> None:
    with pytest.raises(DeploymentError, match=rf"port {taken_port} .*superlink_port.* in use"):
        Deployment(PING, 1, work_dir=tmp_path / "w", superlink_port=taken_port).__enter__()
    assert not (tmp_path / "w").exists()


def test_two_nodes_with_one_port_are_named(tmp_path: Path) -> None:
    port = free_ports(1)[0]
    nodes = [Node(port=port), Node(), Node(port=port)]
    with pytest.raises(DeploymentError, match=rf"node 0 and .*node 2 are both {port}"):
        Deployment(PING, nodes, work_dir=tmp_path).__enter__()


def test_two_nodes_with_one_partition_are_named(tmp_path: Path) -> None:
    nodes = [Node({"partition-id": part}) for part in (0, 1, 0)]
    with pytest.raises(DeploymentError, match="node 0 and node 2 both have partition-id 0: give"):
        Deployment(PING, nodes, work_dir=tmp_path / "w").__enter__()
    assert not (tmp_path / "w").exists()


def test_an_address_nobody_listens_on_is_named(taken_port: int) -> None:
    require_listening("127.0.0.1", taken_port)
    port = free_ports(1)[0]
    with pytest.raises(DeploymentError, match=rf"nobody listens on 127.0.0.1:{port}"):
        require_listening("127.0.0.1", port)


def test_flwr_not_on_path_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sysconfig, "get_path", lambda _name: str(tmp_path))
    with pytest.raises(DeploymentError, match=r"flwr is not on PATH.*install flwr"):
        Deployment(PING, 1, work_dir=tmp_path).__enter__()


def test_a_folder_that_is_no_app_is_named(tmp_path: Path) -> None:
    with pytest.raises(DeploymentError, match=f"{tmp_path} is not a Flower app"):
        Deployment(tmp_path, 1, work_dir=tmp_path).__enter__()


def test_simulated_nodes_cannot_be_configured(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    with pytest.raises(DeploymentError, match="run_config"):
        Deployment(PING, [Node({"a": 1})], work_dir=tmp_path, simulation=True).__enter__()


def test_a_deployment_that_is_not_open_says_so(tmp_path: Path) -> None:
    deployment = Deployment(PING, 1, work_dir=tmp_path)
    with pytest.raises(RuntimeError, match="not open"):
        deployment.kill_node(0)
    deployment.stop()


# Process groups, with programs that are quick to start


def stubborn(tmp_path: Path) -> list[str]:
    """Command of a program that ignores SIGTERM, with a child that does so too."""
    script = tmp_path / "stubborn.sh"
    script.write_text(
        'trap "" TERM\n(trap "" TERM; echo up; while :; do sleep 0.1; done) &\nwait\n'
    )
    return ["sh", str(script)]


def wait_for_output(programs: Programs, name: str) -> None:
    program = programs.get(name)
    give_up = time.monotonic() + 10
    while program and not program.output() and time.monotonic() < give_up:
        time.sleep(0.02)
    assert program
    assert program.output()


def test_a_program_that_ignores_sigterm_is_killed_with_its_children(tmp_path: Path) -> None:
    programs = Programs(tmp_path)
    programs.launch("stubborn", stubborn(tmp_path), dict(os.environ))
    wait_for_output(programs, "stubborn")
    assert len(alive_in(tmp_path)) >= 2
    programs.stop()
    assert_nothing_left(tmp_path)


def test_the_guard_ends_what_a_killed_process_left(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    script = (
        "import os, signal, sys; from pathlib import Path; from rtc_flower.processes import *\n"
        f"programs = Programs(Path({str(tmp_path)!r}), [{str(scratch)!r}])\n"
        f"programs.launch('stubborn', {stubborn(tmp_path)!r}, dict(os.environ))\n"
        "while not programs.get('stubborn').output(): pass\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    died = subprocess.run([sys.executable, "-c", script], check=False)
    assert died.returncode == -signal.SIGKILL
    assert alive_in(tmp_path)
    assert_nothing_left(tmp_path, patience=15)
    give_up = time.monotonic() + 10
    while scratch.exists() and time.monotonic() < give_up:
        time.sleep(0.05)
    assert not scratch.exists()


def test_a_program_that_does_not_exist_is_named(tmp_path: Path) -> None:
    programs = Programs(tmp_path)
    with pytest.raises(DeploymentError, match="no-such-program"):
        programs.launch("x", ["no-such-program"], dict(os.environ))
    programs.stop()


# Flower itself


@pytest.mark.processes
def test_a_deployment_runs_an_app_and_a_failing_one_and_leaves_nothing(tmp_path: Path) -> None:
    nodes = [Node({"name": "a 'b' \"c\" d=e"}), Node({"name": "two", "parts": 2})]
    with Deployment(PING, nodes, work_dir=tmp_path) as deployment:
        assert len(set(deployment.node_ids.values())) == 2
        lines = list(deployment.run())
        assert """reply name='a \\'b\\' "c" d=e'""" in lines
        assert "reply name='two';parts=2" in lines
        with pytest.raises(DeploymentError, match=r"finished:failed.*told to fail"):
            list(deployment.run({"mode": "fail"}))
    assert_nothing_left(tmp_path)


@pytest.mark.processes
@pytest.mark.parametrize("wait", [True, False])
def test_a_node_that_dies_at_start_shows_its_log(tmp_path: Path, wait: bool) -> None:
    broken = tmp_path / "broken" / "flwr"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise ImportError('this node has a broken flwr')\n")
    nodes = [Node(python_path=[broken.parent])]
    with (
        pytest.raises(DeploymentError, match=r"node-0 ended[\s\S]*a broken flwr"),
        Deployment(PING, nodes, work_dir=tmp_path, wait_for_nodes=wait) as deployment,
    ):
        list(deployment.run({"mode": "wait"}))
    assert_nothing_left(tmp_path)


@pytest.mark.processes
@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_a_signal_during_a_run_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    script = (
        # A test that runs in the background of a shell script inherits an ignored SIGINT.
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from rtc_flower.deployment import Deployment\n"
        f"with Deployment({str(PING)!r}, 1, work_dir={str(tmp_path)!r}) as deployment:\n"
        "    for line in deployment.run({'mode': 'wait'}):\n"
        "        print(line, flush=True)\n"
    )
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert any(b"server started" in line for line in process.stdout)
        assert len(alive_in(tmp_path)) >= 5
        process.send_signal(number)
        process.communicate(timeout=60)
    assert process.returncode == (128 + number if number == signal.SIGTERM else -signal.SIGINT)
    assert_nothing_left(tmp_path)


def kill_server_app_when_it_runs(deployment: Deployment) -> None:
    for line in deployment.run({"mode": "wait"}):
        if "server started" in line:
            deployment.kill_server_app()


@pytest.mark.processes
@pytest.mark.slow
def test_nodes_and_the_server_can_be_killed_and_started_again(tmp_path: Path) -> None:
    with Deployment(PING, [Node(), Node({"late": True}, late=True)], work_dir=tmp_path) as running:
        assert running.node_ids.keys() == {0}
        with pytest.raises(DeploymentError, match="ServerApp of run-1 was killed"):
            kill_server_app_when_it_runs(running)
        first = running.node_ids[0]
        running.kill_node(0)
        assert running.node_ids == {}
        running.start_node(0)
        running.start_node(1)
        assert running.node_ids[0] != first
        assert "reply late=True" in list(running.run())
        with pytest.raises(DeploymentError, match="did not start a run"):
            list(running.run({"no-such-key": 1}))
    assert_nothing_left(tmp_path)


@pytest.mark.processes
@pytest.mark.slow
def test_the_same_app_runs_in_simulation_and_leaves_nothing(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    with Deployment(PING, 3, work_dir=tmp_path, simulation=True) as simulation:
        lines = list(simulation.run({"min-nodes": 3}))
        assert sorted(line for line in lines if line.startswith("reply")) == [
            f"reply num-partitions=3;partition-id={index}" for index in range(3)
        ]
        assert alive_in(tmp_path)
    assert_nothing_left(tmp_path)
