"""`rtc-flower demo`: the main job through real processes, and every way in which it can fail."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_deployment import assert_nothing_left

from rtc_flower.cli import main
from rtc_flower.reading import list_roster, votes_of
from rtc_flower.verify import verify

COMMAND = [str(Path(sys.executable).with_name("rtc-flower")), "demo"]
# A test that runs in the background of a shell script inherits an ignored SIGINT.
INTERRUPTIBLE = [
    *(sys.executable, "-c"),
    "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL);"
    "os.execv(sys.argv[1], sys.argv[1:])",
]
KEYS = {
    *("dataset", "nodes", "consensus_accuracy", "mean_node_accuracy", "best_node_accuracy"),
    *("samples_decided", "run_seconds", "ledger_seconds", "ledger", "verify"),
}


def demo(folder: Path, *options: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the demo as a user does, with its state in ``folder``."""
    command = [*COMMAND, "--state-dir", str(folder / "state"), *options]
    return subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **env}, cwd=folder, check=False
    )


def figures(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "figures.json").read_text())
    return found


def check_figures(shown: dict[str, Any], count: int) -> None:
    """What holds for the figures of any demo in which every node voted."""
    assert shown.keys() >= KEYS
    assert shown["verify"] == "ok"
    for node in shown["nodes"]:
        assert node.keys() == {"name", "model", "samples", "accuracy", "agreement", "status"}
        assert node["status"].startswith("voted")
    accuracies = [node["accuracy"] for node in shown["nodes"]]
    assert len(accuracies) == count
    assert shown["mean_node_accuracy"] == pytest.approx(np.mean(accuracies))
    assert shown["best_node_accuracy"] == max(accuracies)
    assert shown["consensus_accuracy"] > shown["best_node_accuracy"]
    ledger = Path(shown["ledger"])
    assert verify(ledger).summary == "ok"
    assert len(votes_of(ledger, 1).names) == len(list_roster(ledger)) == count


@pytest.mark.processes
def test_the_demo_decides_digits_better_than_its_nodes(tmp_path: Path) -> None:
    done = demo(tmp_path, "--dataset", "digits", "--json", "figures.json")
    assert done.returncode == 0, done.stdout + done.stderr
    shown = figures(tmp_path)
    check_figures(shown, count=6)
    assert (shown["dataset"], shown["samples_decided"]) == ("digits", 1197)
    assert [node["samples"] for node in shown["nodes"]] == [100] * 6
    assert len({node["model"] for node in shown["nodes"]}) >= 4
    assert shown["consensus_accuracy"] >= shown["mean_node_accuracy"] + 0.03
    assert 0 < shown["ledger_seconds"] < shown["run_seconds"]
    assert Path(shown["ledger"]).is_relative_to(tmp_path / "state")
    for node in shown["nodes"]:
        assert re.search(rf"ballot {node['name']}\b", done.stdout)
    assert f"consensus {shown['consensus_accuracy']:.2%}" in done.stdout
    assert "the closest calls" in done.stdout
    assert "TASK ─[" in done.stdout
    assert_nothing_left(tmp_path, patience=2)


@pytest.mark.processes
@pytest.mark.slow
def test_the_demo_decides_mnist_better_than_every_node(tmp_path: Path) -> None:
    data = os.environ.get("RTC_FLOWER_DATA", "")
    if not (Path(data) / "MNIST" / "raw").is_dir() or not data:
        message = f"RTC_FLOWER_DATA is {data!r}: expected the folder that holds MNIST/raw"
        pytest.fail(message) if os.environ.get("CI") == "true" else pytest.skip(message)
    done = demo(tmp_path, "--json", "figures.json")
    assert done.returncode == 0, done.stdout + done.stderr
    shown = figures(tmp_path)
    check_figures(shown, count=10)
    assert (shown["dataset"], shown["samples_decided"]) == ("mnist", 10_000)
    assert [node["samples"] for node in shown["nodes"]] == [5_000] * 10
    assert len({node["model"] for node in shown["nodes"]}) >= 5
    assert shown["consensus_accuracy"] >= 0.991
    cnns = [node["accuracy"] for node in shown["nodes"] if node["model"] == "cnn"]
    assert min(cnns) >= 0.986
    assert shown["ledger_seconds"] < 0.02 * shown["run_seconds"]
    assert_nothing_left(tmp_path, patience=2)


# Ctrl-C, as a terminal sends it


@pytest.fixture
def running(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A demo in the background."""
    options = ["--state-dir", str(tmp_path / "state"), "--dataset", "digits", "--nodes", "3"]
    process = subprocess.Popen(
        [*INTERRUPTIBLE, *COMMAND, *options, "--json", "figures.json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    yield process
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)


def wait_for_line(process: subprocess.Popen[str], text: str) -> None:
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        if text in line:
            return
    pytest.fail(f"{text!r} was never said: {said}")


def interrupt(process: subprocess.Popen[str]) -> str:
    """Press Ctrl-C; return what was said to the user."""
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    return told


@pytest.mark.processes
@pytest.mark.slow
def test_ctrl_c_leaves_no_process_and_the_demo_goes_on_later(
    running: subprocess.Popen[str], tmp_path: Path
) -> None:
    wait_for_line(running, "asked")
    told = interrupt(running)
    assert "interrupted; no process is left" in told
    assert f"--state-dir {tmp_path / 'state'} goes on with it" in told
    assert "Traceback" not in told
    assert_nothing_left(tmp_path, patience=2)
    assert not list(tmp_path.glob("*figures.json*"))
    # What the message promises.
    done = demo(tmp_path, "--dataset", "digits", "--nodes", "3", "--json", "figures.json")
    assert done.returncode == 0, done.stdout + done.stderr
    shown = figures(tmp_path)
    assert shown["verify"] == "ok"
    assert [node["status"] for node in shown["nodes"]] == ["voted"] * 3
    assert_nothing_left(tmp_path, patience=2)


@pytest.mark.processes
@pytest.mark.slow
def test_ctrl_c_while_the_programs_start_leaves_nothing(
    running: subprocess.Popen[str], tmp_path: Path
) -> None:
    wait_for_line(running, "3 nodes")
    told = interrupt(running)
    assert "interrupted; no process is left" in told
    assert "Traceback" not in told
    assert_nothing_left(tmp_path, patience=2)
    assert not list(tmp_path.glob("*figures.json*"))


@pytest.mark.processes
@pytest.mark.slow
def test_a_node_that_answers_too_late_is_told_of(tmp_path: Path) -> None:
    """A deadline that nobody meets: no ballot, no figures of nodes, and no traceback."""
    done = demo(tmp_path, *("--dataset", "digits", "--nodes", "2", "--deadline", "0.5"))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "no node voted" in done.stderr
    assert_nothing_left(tmp_path, patience=2)


# Bad input: no process is started, and the message names the value


def refused(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *a: str) -> str:
    """What ``rtc-flower demo`` says when it refuses; exit code 1."""
    monkeypatch.setattr(sys, "argv", ["rtc-flower", "demo", *a])
    with pytest.raises(SystemExit) as ended:
        main()
    told = capsys.readouterr().err
    assert ended.value.code == 1
    assert told.startswith("error: ")
    return told


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--dataset", "cifar"], ["'cifar'", "auto, digits, mnist"]),
        (["--dataset", "digits", "--nodes", "0"], ["nodes must be at least 1, got 0"]),
        (["--dataset", "digits", "--nodes", "5000"], ["5000", "1200 private samples"]),
        (["--dataset", "digits", "--seed", "-1"], ["seed is -1"]),
        (["--dataset", "digits", "--deadline", "0"], ["deadline", "0"]),
    ],
)
def test_a_demo_that_cannot_be_is_refused(
    options: list[str],
    words: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    state = tmp_path / "state"
    told = refused(capsys, monkeypatch, *options, "--state-dir", str(state))
    assert all(word in told for word in words), told
    assert not state.exists()


def test_a_folder_without_mnist_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for dataset in ("auto", "mnist"):
        options = ["--dataset", dataset, "--data-dir", str(tmp_path)]
        told = refused(capsys, monkeypatch, *options, "--state-dir", str(tmp_path / "state"))
        assert f"no MNIST in {tmp_path}" in told
        assert "ask for a download" in told
    assert not (tmp_path / "state").exists()


def test_mnist_without_a_folder_says_where_it_is_looked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RTC_FLOWER_DATA", raising=False)
    options = ["--dataset", "mnist", "--state-dir", str(tmp_path / "state")]
    assert "RTC_FLOWER_DATA" in refused(capsys, monkeypatch, *options)


def test_a_truncated_idx_file_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, header in {
        "train-images-idx3-ubyte": (0x803, 60_000, 28, 28),
        "train-labels-idx1-ubyte": (0x801, 60_000),
        "t10k-images-idx3-ubyte": (0x803, 10_000, 28, 28),
        "t10k-labels-idx1-ubyte": (0x801, 10_000),
    }.items():
        (raw / name).write_bytes(np.array(header, ">u4").tobytes() + bytes(100))
    options = ["--data-dir", str(tmp_path), "--state-dir", str(tmp_path / "state")]
    told = refused(capsys, monkeypatch, *options)
    assert "train-images-idx3-ubyte is cut or damaged: 116 bytes" in told
    assert "delete it and download MNIST again" in told


def test_a_json_file_in_no_folder_is_refused_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = str(tmp_path / "nowhere" / "figures.json")
    told = refused(capsys, monkeypatch, "--dataset", "digits", "--json", nowhere)
    assert nowhere in told


def test_a_json_file_that_is_no_file_is_refused_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to(tmp_path / "figures.json")
    for path in (tmp_path, pipe, link):
        told = refused(capsys, monkeypatch, "--dataset", "digits", "--json", str(path))
        assert f"--json {path}" in told


def test_a_state_dir_that_is_a_file_is_named_and_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("mine")
    options = ["--dataset", "digits", "--state-dir", str(tmp_path / "file")]
    assert f"--state-dir {tmp_path / 'file'}: expected" in refused(capsys, monkeypatch, *options)
    assert (tmp_path / "file").read_text() == "mine"


def test_an_installation_without_examples_says_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rtc_flower.demo.__file__", str(tmp_path / "lib" / "demo.py"))
    options = ["--dataset", "digits", "--state-dir", str(tmp_path / "state")]
    told = refused(capsys, monkeypatch, *options)
    assert "run the demo from a checkout" in told
