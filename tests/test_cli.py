"""`rtc-flower` from outside: what it prints, its JSON, its messages and its exit codes."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import sqlite3
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ledgers import cast, open_ledger, post, tamper, voter
from typer.main import get_command

from rtc_flower.cli import app, main
from rtc_flower.keys import SigningKey
from rtc_flower.ledger import Ledger
from rtc_flower.samples import Samples
from rtc_flower.simulator import honest, labelled_task, silent, simulate
from rtc_flower.strategies.proof_of_prediction import VoteTask

COMMANDS = (
    "abort", "backup", "compare", "demo", "export", "init", "keygen", "node-key", "plan",
    "receipt", "repair", "restore", "roster", "rotate-server-key", "show", "verify",
)  # fmt: skip
TRUTH = np.arange(20) % 4
NAMES = ["north", "east", "south", "west"]


@dataclass
class Said:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Said]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command as its entry point does."""

    def call(*arguments: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["rtc-flower", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        code = ended.value.code
        assert code is None or isinstance(code, int)
        return Said(code or 0, *capsys.readouterr())

    return call


@pytest.fixture(scope="module")
def voted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger with a task of named classes, one of ids, and a node that never voted."""
    folder = tmp_path_factory.mktemp("voted")
    task = labelled_task(TRUTH, NAMES)
    assert isinstance(task.samples, Samples)
    ids = tuple(f"compass-{number}" for number in range(20))
    named = VoteTask(Samples(task.samples.features, ids), NAMES)
    nodes = [honest(0.9, seed=1), honest(0.8, seed=2), honest(0.9, seed=3), silent()]
    simulate([task, named], nodes, state_dir=folder, rule="all")
    return folder


@pytest.fixture
def ledger(voted: Path) -> Path:
    return voted / "ledger.db"


def test_the_ledger_of_these_tests_is_what_they_say(ledger: Path, run: Run) -> None:
    tasks = run("show", ledger, "--json").json
    assert [(t["n"], t["k"], t["electorate"], t["reason"]) for t in tasks] == [
        (20, 4, 4, "exhausted")
    ] * 2


# Help


def test_help_names_every_command_and_what_it_is_for(run: Run) -> None:
    said = run("--help")
    assert said.code == 0
    assert "Signed prediction votes" in said.out
    listed = {command.name or command.callback.__name__ for command in app.registered_commands}  # type: ignore[union-attr]
    assert listed >= set(COMMANDS) - {"roster"}
    for name in {*listed, *COMMANDS}:
        assert str(name) in said.out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, run: Run) -> None:
    said = run(command, "--help")
    assert said.code == 0
    assert f"rtc-flower {command}" in said.out
    text = " ".join(said.out.replace("│", " ").split())
    for parameter in get_command(app).commands[command].params:  # type: ignore[attr-defined]
        assert " ".join(parameter.help.split()) in text, parameter.name  # also of what has no --


@pytest.mark.parametrize("wrong", [["--no-such-option"], ["verifi"], ["show"], ["roster", "add"]])
def test_a_wrong_call_is_exit_code_2_with_a_hint(wrong: list[str], run: Run) -> None:
    said = run(*wrong)
    assert said.code == 2
    assert "Usage" in said.err
    assert "Traceback" not in said.err


# verify


def test_verify_says_ok_step_by_step(ledger: Path, run: Run) -> None:
    said = run("verify", ledger)
    assert said.code == 0
    assert said.out.rstrip().endswith("ok")
    report = run("verify", ledger, "--json").json
    assert (report["verify"], report["tasks"], report["ballots"]) == ("ok", 2, 6)
    assert report["votes"] == 2 * 3 * 20
    verdicts = {step["step"]: step["verdict"] for step in report["steps"]}
    unasked = {"V11", "V13"}  # a checkpoint and receipts were not brought
    assert {name for name, verdict in verdicts.items() if verdict == "not checked"} == unasked
    assert set(verdicts.values()) == {"ok", "not checked"}
    assert all(step["title"] for step in report["steps"])
    assert any("open enrolment" in note for note in report["notes"])


def test_verify_against_a_checkpoint_that_is_held(ledger: Path, voted: Path, run: Run) -> None:
    said = run("verify", ledger, "--checkpoint", voted / "HEAD", "--json")
    assert said.code == 0
    assert [s["step"] for s in said.json["steps"] if s["verdict"] != "ok"] == ["V13"]


def test_verify_finds_another_ledger_than_expected(ledger: Path, tmp_path: Path, run: Run) -> None:
    made = run("init", tmp_path / "other", "--json").json
    right = run("verify", ledger, "--json").json["ledger_id"]
    assert run("verify", ledger, "--ledger-id", right).code == 0
    said = run("verify", ledger, "--ledger-id", made["ledger_id"], "--json")
    assert said.code == 1
    assert said.json["verify"].startswith("V3 bad")
    held = run("verify", ledger, "--checkpoint", tmp_path / "other" / "HEAD", "--json")
    assert held.code == 1
    assert "V11 bad" in held.json["verify"]


def test_verify_finds_a_changed_vote(ledger: Path, tmp_path: Path, run: Run) -> None:
    copy = shutil.copy(ledger, tmp_path / "ledger.db")
    connection = sqlite3.connect(copy)
    with connection:
        connection.execute("UPDATE block SET class = (class + 1) % 4 WHERE id = 7")
    connection.close()
    said = run("verify", copy)
    assert said.code == 1
    assert re.search(r"\bV9\s+bad\b", said.out), said.out
    assert run("verify", copy, "--json").json["verify"].startswith("V9 bad")


def test_verify_of_what_is_no_ledger(tmp_path: Path, run: Run) -> None:
    said = run("verify", tmp_path / "none.db")
    assert said.code == 1
    assert "none.db" in said.err + said.out
    (tmp_path / "text.db").write_text("not a database at all, only some text\n" * 50)
    said = run("verify", tmp_path / "text.db")
    assert said.code == 1
    assert "expected an rtc-flower ledger" in said.err + said.out
    assert "Traceback" not in said.err


def test_verify_of_half_a_ledger(ledger: Path, tmp_path: Path, run: Run) -> None:
    half = tmp_path / "half.db"
    half.write_bytes(ledger.read_bytes()[: ledger.stat().st_size // 2])
    said = run("verify", half)
    assert said.code == 1
    assert "Traceback" not in said.err


@pytest.mark.parametrize("option", ["--ledger-id", "--checkpoint"])
def test_verify_refuses_options_that_say_nothing(option: str, ledger: Path, run: Run) -> None:
    said = run("verify", ledger, option, "rubbish")
    assert said.code == 1
    assert said.err.startswith("error: ")
    assert "rubbish" in said.err


def test_verify_names_the_checkpoint_that_is_none(ledger: Path, tmp_path: Path, run: Run) -> None:
    (tmp_path / "note").write_text("no checkpoint")
    said = run("verify", ledger, "--checkpoint", tmp_path / "note", "--json")
    assert said.json["verify"].startswith(f"V11 bad: {tmp_path / 'note'}: expected a checkpoint")


# plan, replay


@pytest.mark.parametrize(
    ("option", "value"),
    [("--accuracy", "90"), ("--nodes", "0"), ("--classes", "1"), ("--classes", "1001"),
     ("--icc", "2"), ("--risk", "0")],
)  # fmt: skip
def test_plan_names_the_option_that_is_out_of_range(option: str, value: str, run: Run) -> None:
    said = run("plan", "--nodes", 5, "--classes", 3, "--accuracy", 0.9, option, value)
    assert said.code == 1
    assert said.err.startswith(f"error: {option} must be ")


def test_plan_from_a_ledger_says_what_its_estimate_is(ledger: Path, run: Run) -> None:
    said = run("plan", "--nodes", 5, "--ledger", ledger)
    assert said.code == 0
    assert "not the truth" in said.err
    known = run("plan", "--nodes", 5, "--ledger", ledger, "--accuracy", 0.8, "--icc", 0.1)
    assert (known.code, known.err) == (0, "")


def test_plan_from_a_damaged_ledger_names_it(ledger: Path, tmp_path: Path, run: Run) -> None:
    damaged = tmp_path / "damaged.db"
    shutil.copy(ledger, damaged)
    tamper(damaged, "DELETE FROM decision WHERE sample = 3")
    said = run("plan", "--nodes", "5", "--ledger", damaged)
    assert said.code == 1
    assert f"error: {damaged}: its rows do not fit one another" in said.err


def test_replay_without_a_truth_says_that_accuracy_is_not_known(tmp_path: Path, run: Run) -> None:
    votes = tmp_path / "votes.csv"
    votes.write_text("node,sample,class\nann,x1,cat\nben,x1,cat\nann,x2,dog\n")
    said = run("replay", votes, "--ledger", tmp_path / "replayed.db")
    assert said.code == 0
    assert "not known: no --truth" in said.out


def test_replay_tells_the_form_of_its_files(run: Run) -> None:
    text = " ".join(run("replay", "--help").out.split())
    for words in ("node,sample,class", "is an abstention", "array 'votes'", "sample,class"):
        assert words in text


# show


def test_show_lists_tasks(ledger: Path, run: Run) -> None:
    said = run("show", ledger)
    assert said.code == 0
    assert "exhausted" in said.out
    assert [task["task"] for task in run("show", ledger, "--json").json] == [1, 2]


def test_show_task_lists_ballots_and_who_is_absent(ledger: Path, run: Run) -> None:
    said = run("show", ledger, "--task", 1)
    assert said.code == 0
    for name in ("honest-0", "honest-1", "honest-2", "silent-3"):
        assert name in said.out
    shown = run("show", ledger, "--task", 1, "--json").json
    assert shown["absent"] == {"silent-3": "deadline"}
    assert sorted(ballot["node"] for ballot in shown["ballots"]) == [
        "honest-0",
        "honest-1",
        "honest-2",
    ]
    assert all(ballot["votes"] == 20 and ballot["counted"] for ballot in shown["ballots"])
    assert all(0.5 < ballot["agreement"] <= 1 for ballot in shown["ballots"])


def test_show_sample_draws_its_forks(ledger: Path, run: Run) -> None:
    for sample in (0, 7, 19):
        drawn = run("show", ledger, "--task", 2, "--sample", sample, "--json").json
        assert drawn["id"] == f"compass-{sample}"
        assert sum(len(fork) for fork in drawn["forks"].values()) == 3
        lengths = [len(fork) for fork in drawn["forks"].values()]
        assert lengths == sorted(lengths, reverse=True)
        said = run("show", ledger, "--task", 2, "--sample", sample)
        assert said.code == 0
        assert f"compass-{sample}" in said.out
        for name, fork in drawn["forks"].items():
            assert name in said.out
            assert all(block["node"] in said.out for block in fork)


def test_show_sample_without_a_task_is_of_the_first(ledger: Path, run: Run) -> None:
    assert run("show", ledger, "--sample", 3, "--json").json["task"] == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--task", "3"], "task 3 does not exist; this ledger has 2 tasks, from 1"),
        (["--task", "0"], "task 0 does not exist"),
        (["--task", "9" * 30], f"task {'9' * 30} does not exist"),
        (["--sample", "20"], "sample 20 does not exist; task 1 has 20, from 0"),
        (["--sample", "-1"], "sample -1 does not exist"),
    ],
)
def test_show_names_what_does_not_exist(
    options: list[str], words: str, ledger: Path, run: Run
) -> None:
    for extra in ([], ["--json"]):
        said = run("show", ledger, *options, *extra)
        assert (said.code, said.out) == (1, "")
        assert said.err.startswith("error: ")
        assert words in said.err


def test_the_votes_of_an_open_task_are_sealed(tmp_path: Path, run: Run) -> None:
    path = tmp_path / "ledger.db"
    with open_ledger(path, voters=3) as ledger:
        post(ledger, 3)
        cast(ledger, voter(0), [0, 1, 2])
        for command in (["show", path, "--task", 1], ["show", path, "--sample", 0]):
            said = run(*command)
            assert (said.code, said.out) == (1, "")
            assert "task 1 is open: its votes are sealed until it closes" in said.err
        said = run("export", path)
        assert (said.code, said.out) == (1, "")
        assert "sealed" in said.err
        assert run("show", path, "--json").json[0]["reason"] is None


# export


def test_export_writes_the_same_outcomes_as_csv_and_json(
    ledger: Path, tmp_path: Path, run: Run
) -> None:
    rows = run("export", ledger, "--task", 2, "--json").json
    assert [row["sample"] for row in rows] == list(range(20))
    assert [row["id"] for row in rows] == [f"compass-{number}" for number in range(20)]
    told = run("export", ledger, "--task", 2)
    assert told.code == 0
    read = list(csv.DictReader(io.StringIO(told.out)))
    texts = [{k: "" if v is None else str(v) for k, v in row.items()} for row in rows]
    assert read == texts
    out = tmp_path / "outcomes.csv"
    said = run("export", ledger, "--task", 2, "--output", out)
    assert (said.code, said.out, said.err) == (0, "", "")
    assert out.read_text() == told.out
    said = run("export", ledger)
    assert (said.out, said.err) == (
        run("export", ledger, "--task", 1).out,
        "note: task 1 of 2; --task names another\n",
    )


def test_export_agrees_with_the_forks(ledger: Path, run: Run) -> None:
    for row in run("export", ledger, "--json").json[::5]:
        forks = run("show", ledger, "--sample", row["sample"], "--json").json["forks"]
        longest = next(iter(forks))
        assert longest in row.values()
        assert row["support"] == len(forks[longest])


def test_export_into_no_folder_leaves_nothing(ledger: Path, tmp_path: Path, run: Run) -> None:
    said = run("export", ledger, "--output", tmp_path / "nowhere" / "out.csv")
    assert said.code == 1
    assert "nowhere/out.csv" in said.err
    assert list(tmp_path.iterdir()) == []


def test_export_of_a_ledger_without_tasks(tmp_path: Path, run: Run) -> None:
    run("init", tmp_path / "empty")
    said = run("export", tmp_path / "empty" / "ledger.db")
    assert said.code == 1
    assert "task 1 does not exist" in said.err


# init, abort, roster list


def test_init_makes_a_ledger_once(tmp_path: Path, run: Run) -> None:
    state = tmp_path / "state"
    made = run("init", state, "--json").json
    assert made["enrolment"] == "open"
    assert made["ledger"] == str(state / "ledger.db")
    assert SigningKey.load(state / "server.key").public.hex() == made["server_key"]
    assert (state / "server.key").stat().st_mode & 0o077 == 0
    assert run("verify", state / "ledger.db", "--ledger-id", made["ledger_id"]).code == 0
    before = (state / "ledger.db").read_bytes()
    said = run("init", state)
    assert said.code == 1
    assert "a ledger is never overwritten" in said.err
    assert (state / "ledger.db").read_bytes() == before


@pytest.mark.parametrize("name", ["file", "file/inside"])
def test_init_in_what_is_no_folder(name: str, tmp_path: Path, run: Run) -> None:
    (tmp_path / "file").write_text("mine")
    said = run("init", tmp_path / name)
    assert said.code == 1
    assert said.err.startswith(f"error: {tmp_path / name}: expected a folder for server.key")
    assert (tmp_path / "file").read_text() == "mine"


def test_init_with_an_admin_key(tmp_path: Path, run: Run) -> None:
    admin = SigningKey.generate().public.hex()
    said = run("init", tmp_path / "state", "--admin-key", admin)
    assert said.code == 0
    assert "enrolment: roster" in said.out
    assert run("verify", tmp_path / "state" / "ledger.db").code == 0


@pytest.mark.parametrize("key", ["xyz", "00" * 31, "00" * 32, "01" + "00" * 31])
def test_init_refuses_a_key_that_may_not_enrol(key: str, tmp_path: Path, run: Run) -> None:
    said = run("init", tmp_path / "state", "--admin-key", key)
    assert said.code == 1
    assert said.err.startswith("error: --admin-key: ")
    assert not (tmp_path / "state").exists()


def test_roster_list_shows_who_may_vote(ledger: Path, run: Run) -> None:
    members = run("roster", "list", ledger, "--json").json
    assert [member["position"] for member in members] == [0, 1, 2, 3]
    names = {member["name"] for member in members}
    assert names == {"honest-0", "honest-1", "honest-2", "silent-3"}
    assert all(len(bytes.fromhex(member["key"])) == 32 for member in members)
    said = run("roster", "list", ledger)
    assert said.code == 0
    assert all(name in said.out for name in names)


def test_what_is_empty_says_so(tmp_path: Path, run: Run) -> None:
    assert run("init", tmp_path / "new").code == 0
    assert run("show", tmp_path / "new" / "ledger.db").out == "no task was posted yet\n"
    said = run("roster", "list", tmp_path / "new" / "ledger.db")
    assert said.out == "roster: nobody is enrolled\n"


def test_abort_closes_the_open_task_and_nothing_else(tmp_path: Path, run: Run) -> None:
    key = SigningKey.generate()
    key.save(tmp_path / "server.key")
    with Ledger.create(tmp_path / "ledger.db", key) as ledger:
        ledger.enrol([(voter(n).public, f"node-{n}") for n in range(3)])
        post(ledger, 3)
    assert run("abort", tmp_path).code == 0
    assert run("show", tmp_path / "ledger.db", "--json").json[0]["reason"] == "aborted"
    assert run("verify", tmp_path / "ledger.db").code == 0
    said = run("abort", tmp_path)
    assert said.code == 1
    assert "expected an open task, found none" in said.err
    said = run("show", tmp_path / "ledger.db", "--task", 1)
    assert "task 1 was aborted" in said.err


def test_a_ledger_in_use_is_not_written(tmp_path: Path, run: Run) -> None:
    key = SigningKey.generate()
    key.save(tmp_path / "server.key")
    with Ledger.create(tmp_path / "ledger.db", key):
        said = run("abort", tmp_path)
    assert said.code == 1
    assert "is writing this ledger" in said.err
