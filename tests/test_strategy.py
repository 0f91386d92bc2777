"""The strategy end to end in memory: what is decided, what is on disk, and what stops nobody."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Message
from ledgers import log_of, query
from populations import (
    assert_verified,
    ballots,
    contract,
    copied,
    entries,
    key_of,
    killed,
    labels,
    node_of,
    of_kind,
    population_files,
    ranks,
    refused,
    replayed,
    run,
    task,
    truthful,
)

from rtc_flower.admin import change_roster, open_state
from rtc_flower.ballot import Ballot
from rtc_flower.clients.contract import ABSTAIN
from rtc_flower.entries import Close, CloseReason, Genesis, Invite, Refusal, Task
from rtc_flower.errors import KeyFormatError, LedgerLockedError, QuorumError, TaskError
from rtc_flower.keys import SigningKey
from rtc_flower.ledger import Ledger
from rtc_flower.roster import Roster
from rtc_flower.samples import Samples
from rtc_flower.simulator import (
    InMemoryGrid,
    SimulatedClock,
    SimulatedNode,
    asked_to_vote,
    equivocating,
    forging,
    honest,
    population,
    silent,
    simulate,
    sybil,
)
from rtc_flower.strategies.collector import Collector
from rtc_flower.strategies.events import Event
from rtc_flower.strategies.proof_of_prediction import ProofOfPrediction, VoteTask
from rtc_flower.tally import How
from rtc_flower.wire import MAX_TEXT, RECORD

K = 5


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    end = time.monotonic() + 5
    while set(threading.enumerate()) - before and time.monotonic() < end:
        time.sleep(0.01)
    assert set(threading.enumerate()) <= before


# -- closing ---------------------------------------------------------------------------------


def test_a_task_closes_with_everyone(tmp_path: Path) -> None:
    clock = SimulatedClock()
    result = run([task()], [truthful() for _ in range(5)], tmp_path, rule="all", clock=clock)
    (decided,) = result.tasks
    assert decided.reason == "exhausted"
    assert (decided.outcomes.classes == labels()).all()
    assert (decided.outcomes.support == 5).all()
    assert set(decided.ballots) == {f"node-{i}" for i in range(5)}
    assert (decided.absent, decided.refusals, decided.idle) == ({}, {}, ())
    assert clock.now < 10
    assert result.ledger == tmp_path / "ledger.db"
    assert result.checkpoint == (tmp_path / "HEAD").read_text()
    assert result.ledger_seconds > 0
    assert result.train_metrics_clientapp[1]["ballots"] == 5


def test_certain_closes_before_everyone_has_voted(tmp_path: Path) -> None:
    nodes = [*(truthful() for _ in range(5)), truthful(delay=50.0), silent()]
    result = run([task()], nodes, tmp_path)
    (decided,) = result.tasks
    assert decided.reason == "decided"
    assert set(decided.outcomes.how.tolist()) == {How.CERTAIN}
    assert len(decided.ballots) == 4
    assert decided.absent == {}


def test_a_task_closes_at_its_deadline_with_a_silent_and_a_rubbish_node(tmp_path: Path) -> None:
    clock = SimulatedClock()
    nodes = [
        *(truthful() for _ in range(3)),
        silent(),
        *(truthful(rubbish=kind) for kind in ("empty", "records", "bytes", "huge")),
    ]
    result = run([task(8)], nodes, tmp_path, deadline=30.0, clock=clock)
    (decided,) = result.tasks
    assert set(decided.ballots) == {"node-0", "node-1", "node-2"}
    assert set(decided.absent.values()) == {"deadline"}
    assert (decided.outcomes.classes == labels(8)).all()
    assert set(refused(result.ledger)) == {
        ("node-4", Refusal.ANSWER),
        ("node-5", Refusal.ANSWER),
        ("node-6", Refusal.FORMAT),
        ("node-7", Refusal.SIZE),
    }
    assert 30.0 <= clock.now < 60.0


def test_a_trickle_of_replies_holds_up_no_deadline(tmp_path: Path) -> None:
    """Each comes within 0.2 s of the last, for five seconds more than the deadline."""
    clock, absent = SimulatedClock(), []
    nodes = [*(truthful(delay=0.1 * number) for number in range(60)), silent()]

    def told(event: Event) -> None:
        absent.extend([clock.now] if event.what == "absent" else [])

    with InMemoryGrid(population(nodes, tmp_path), workers=1, clock=clock) as grid:
        ProofOfPrediction(
            [task()], tmp_path, min_nodes=61, deadline=1.0, rule="all", audit="off", clock=clock,
            sleep=clock.sleep, on_event=told, collector=lambda grid: Collector(
                grid, workers=0, poll=0.001, clock=clock, sleep=clock.sleep
            ),
        ).start(grid)  # fmt: skip
    assert len(absent) > 30
    assert max(absent) < 3.5


def test_close_when_enough_samples_are_decided(tmp_path: Path) -> None:
    def half(X: Any) -> Any:
        return np.where(X[:, 1] < 30, X[:, 0], ABSTAIN)

    nodes = [
        truthful(),
        truthful(delay=9.0),
        truthful(delay=9.0),
        *(node_of(contract(half)) for _ in range(4)),
    ]
    result = run([task()], nodes, tmp_path, close_when=0.5)
    assert result.tasks[0].reason == "enough"
    assert (result.tasks[0].outcomes.how[:30] == How.CERTAIN).all()


def test_a_node_declines_by_accept_or_when_its_time_is_over(tmp_path: Path) -> None:
    def slowly(X: Any) -> Any:
        time.sleep(0.3)
        return X[:, 0]

    asked: list[Any] = []

    def busy(info: Any) -> bool:
        asked.append(info)
        return False

    nodes = [
        truthful(),
        node_of(contract(lambda X: X[:, 0], accept=busy)),
        node_of(contract(slowly, max_seconds=0.05)),
    ]
    result = run([task()], nodes, tmp_path)
    assert result.tasks[0].absent == {"node-1": "declined", "node-2": "declined"}
    assert set(result.tasks[0].ballots) == {"node-0"}
    assert (asked[0].kind, asked[0].n, asked[0].class_names) == ("default", 60, tuple("01234"))
    assert 50 < asked[0].seconds <= 60


def test_what_a_node_says_is_cut_and_gives_no_orders_to_a_terminal(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    said = "\x1b[2J\ntask 1: closed\x07" + "A" * 100_000

    def tamper(reply: Message) -> Message:
        record = reply.content.config_records[RECORD]
        for field in {"text", "verdict", "detail", "name"} & set(record):
            record[field] = said
        return reply

    busy = contract(lambda X: X[:, 0], accept=lambda info: False)
    nodes = [truthful(), truthful(), node_of(busy)]
    loud = [replace(node, when=lambda message: True, tamper=tamper) for node in nodes[1:]]
    events: list[Event] = []
    with caplog.at_level("INFO", logger="flwr.rtc_flower"):
        result = run([task()], [nodes[0], *loud], tmp_path, rule="all", on_event=events.append)
    (decided,) = result.tasks
    found = [text for audit in decided.audits for text in (audit.verdict, audit.detail)]
    texts = [record.getMessage() for record in caplog.records if "[2J" in record.getMessage()]
    texts += [event.detail for event in events] + found
    assert len([text for text in texts if "AAA" in text]) >= 4
    assert all(len(detail) <= MAX_TEXT for detail in found)
    assert all(len(text) < 1000 and not {"\x1b", "\n", "\x07"} & set(text) for text in texts)


def raises(X: Any) -> Any:
    raise ZeroDivisionError("patient 4711")


BAD_CONTRACTS: dict[str, Callable[[Any], Any]] = {
    "raises": raises,
    "short": lambda X: X[:-1, 0],
    "long": lambda X: np.append(X[:, 0], 0),
    "scores": lambda X: np.eye(K)[X[:, 0]],
    "floats": lambda X: X[:, 0].astype(float),
    "nan": lambda X: np.full(len(X), np.nan),
    "above": lambda X: np.full(len(X), K),
    "below": lambda X: np.full(len(X), -2),
    "none": lambda X: None,
}


def test_a_contract_that_fails_is_absent_and_the_others_decide(tmp_path: Path) -> None:
    nodes = [
        *(node_of(contract(predict)) for predict in BAD_CONTRACTS.values()),
        truthful(),
        truthful(),
    ]
    details: dict[str, str] = {}

    def note(event: Event) -> None:
        if event.what == "absent":
            details[event.node] = event.detail

    result = run([task()], nodes, tmp_path, rule="all", on_event=note)
    (decided,) = result.tasks
    bad = [f"node-{i}" for i in range(len(BAD_CONTRACTS))]
    assert decided.absent == dict.fromkeys(decided.absent, "error")
    assert set(decided.absent) == set(bad)
    assert decided.refusals == {}
    assert (decided.outcomes.classes == labels()).all()
    assert "the contract raised ZeroDivisionError" in details["node-0"]
    assert "4711" not in details["node-0"]
    assert "must answer 60 classes, got an array of (59,)" in details["node-1"]
    assert "take the argmax" in details["node-4"]
    assert "got 5 for sample 0" in details["node-6"]


# -- the pool --------------------------------------------------------------------------------


def test_several_tasks_and_a_node_that_joins_late_votes_in_the_next(tmp_path: Path) -> None:
    # Three hellos, then three requests to vote: it is there from the middle of the first task on.
    nodes = [truthful(), truthful(), truthful(delay=5.0), truthful(joins_after=6)]
    tasks = [task(20, first=first) for first in (0, 20, 40)]
    result = run(tasks, nodes, tmp_path, rule="all")
    assert [sorted(decided.ballots) for decided in result.tasks] == [
        ["node-0", "node-1", "node-2"],
        ["node-0", "node-1", "node-2", "node-3"],
        ["node-0", "node-1", "node-2", "node-3"],
    ]
    assert [decided.number for decided in result.tasks] == [1, 2, 3]
    assert [len(roster.members) for roster in of_kind(result.ledger, Roster)] == [3, 4]


def test_num_rounds_runs_a_part_of_the_pool(tmp_path: Path) -> None:
    clock = SimulatedClock()
    strategy = ProofOfPrediction(
        [task(first=i) for i in range(3)],
        tmp_path,
        collector=clock.collector,
        clock=clock,
        sleep=clock.sleep,
    )
    nodes = population([truthful(), truthful()], tmp_path)
    with InMemoryGrid(nodes, workers=1, clock=clock) as grid:
        assert len(strategy.start(grid, num_rounds=2).tasks) == 2


def test_the_kind_of_a_task_selects_the_contract(tmp_path: Path) -> None:
    both = {"left": contract(lambda X: X[:, 0] * 0), "right": contract(lambda X: X[:, 0] * 0 + 1)}
    nodes = [node_of(both), node_of(both), node_of({"right": both["right"]})]
    tasks = [task(kind="left"), task(kind="right"), task(kind="up")]
    left, right, up = run(tasks, nodes, tmp_path, rule="all").tasks
    assert (left.outcomes.classes == 0).all()
    assert left.absent == {"node-2": "declined"}
    assert (right.outcomes.classes == 1).all()
    assert right.absent == {}
    assert set(up.absent.values()) == {"declined"}
    assert set(up.outcomes.how.tolist()) == {How.NONE}
    assert (up.outcomes.support == 0).all()


def test_samples_that_are_only_ids_are_looked_up_by_every_node(tmp_path: Path) -> None:
    ids = tuple(f"patient-{i}" for i in range(9))

    def own_features(position: int) -> Callable[[tuple[str, ...]], Any]:
        return lambda wanted: np.array([[int(name.split("-")[1]) % 3, position] for name in wanted])

    nodes = [node_of(contract(lambda X: X[:, 0], features=own_features(i))) for i in range(3)]
    nodes.append(truthful())  # has no features of its own
    result = run([VoteTask(Samples(ids=ids), ("red", "green", "blue"))], nodes, tmp_path)
    (decided,) = result.tasks
    assert decided.outcomes.classes.tolist() == [0, 1, 2] * 3
    assert decided.absent == {"node-3": "error"}


def test_abstaining_counts_for_no_class(tmp_path: Path) -> None:
    def odd(X: Any) -> Any:
        return np.where(X[:, 1] % 2, X[:, 0], ABSTAIN)

    result = run([task()], [node_of(contract(odd)) for _ in range(3)], tmp_path, rule="all")
    (decided,) = result.tasks
    assert decided.outcomes.support.tolist() == [0, 3] * 30
    assert set(decided.outcomes.how[::2].tolist()) == {How.NONE}
    assert (decided.outcomes.classes[1::2] == labels()[1::2]).all()
    assert query(result.ledger, "SELECT count(*) FROM vote") == [(90,)]


# -- who takes part --------------------------------------------------------------------------


def test_fewer_than_min_nodes_post_nothing(tmp_path: Path) -> None:
    clock = SimulatedClock()
    with pytest.raises(QuorumError, match="3 of 5 nodes connected within 20 s; nothing was posted"):
        simulate(
            [task()],
            [truthful() for _ in range(3)],
            state_dir=tmp_path,
            min_nodes=5,
            wait_seconds=20.0,
            clock=clock,
        )
    assert 20 <= clock.now < 25
    assert [type(entry) for entry in entries(tmp_path / "ledger.db")] == [Genesis]


def test_two_nodes_with_one_key_keep_the_first_and_report_the_second(tmp_path: Path) -> None:
    shared = {"state-dir": str(tmp_path / "shared")}
    nodes = [truthful(node_config=shared), truthful(node_config=shared), truthful()]
    result = run([task()], nodes, tmp_path, min_nodes=2)
    assert len(result.tasks[0].ballots) == 2
    (why,) = result.refused_nodes.values()
    assert "which is online: two nodes share one state-dir" in why
    assert len(of_kind(result.ledger, Roster)[-1].members) == 2


def test_too_few_nodes_says_who_is_refused_and_why(tmp_path: Path) -> None:
    shared = {"state-dir": str(tmp_path / "shared")}
    nodes = [truthful(node_config=shared), truthful(node_config=shared)]
    with pytest.raises(
        QuorumError, match=r"1 of 2 nodes.*; node \d+ is refused: expected a key of"
    ):
        run([task()], nodes, tmp_path, min_nodes=2, wait_seconds=20.0)


def test_a_second_writer_fails_at_once_and_harms_nothing(tmp_path: Path) -> None:
    failures: list[str] = []

    def second(event: Event) -> None:
        if event.what == "ballot":
            with pytest.raises(LedgerLockedError, match="ledger"):
                Ledger(tmp_path / "ledger.db", SigningKey.load(tmp_path / "server.key"))
            with InMemoryGrid() as grid, pytest.raises(LedgerLockedError) as caught:
                ProofOfPrediction([task()], tmp_path).start(grid)
            failures.append(str(caught.value))

    result = run([task()], [truthful(), truthful()], tmp_path, on_event=second, rule="all")
    assert len(failures) == 2
    assert len(result.tasks[0].ballots) == 2


# -- wrong parameters ------------------------------------------------------------------------


def posted(samples: Any = None, classes: Any = 3, **options: Any) -> Callable[[Path], object]:
    features = np.arange(6) if samples is None else samples
    return lambda path: ProofOfPrediction([VoteTask(features, classes)], path, **options)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (posted(classes=1), "classes must be an integer in 2 to 1000, got 1"),
        (posted(classes=1001), "classes must be an integer in 2 to 1000, got 1001"),
        (posted(classes=["a", "b", "a"]), "class names must differ, got 'a' repeated"),
        (posted(classes=["a", ""]), "class names must not be empty"),
        (posted(classes=-3), "classes must be an integer in 2 to 1000, got -3"),
        (posted(classes="ab"), "classes must be a number or a list of names, got 'ab'"),
        (posted(classes=["a", 1]), "texts of at most 255 bytes, got 1"),
        (posted(classes=["a", "b" * 256]), "texts of at most 255 bytes, got 'bbb"),
        (
            lambda path: ProofOfPrediction([VoteTask(np.arange(6), 3, "k" * 256)], path),
            "texts of at most 255 bytes, got 'kkk",
        ),
        (posted(samples=np.zeros((0, 2))), "at least one sample"),
        (posted(samples=np.array(["a", "b"])), "numeric array"),
        (lambda path: Samples(), "at least one sample: features, ids or both; got none"),
        (lambda path: Samples(np.zeros(3), ("a", "b")), "one length, got 3 samples and 2 ids"),
        (posted(rule="best"), "rule must be one of certain, certified, paper, all, got 'best'"),
        (posted(order="random"), "order must be one of arrival, invitation, got 'random'"),
        (posted(rule="certified", order="arrival"), "invitation"),
        (posted(rule="paper", order="arrival"), "invitation"),
        (posted(wave_size=0), "wave_size must be at least 1, got 0"),
        (posted(invite_ahead=-1), "invite_ahead must be at least 0, got -1"),
        (posted(close_when=0), r"close_when must be in \(0, 1\], got 0"),
        (posted(close_when=1.5), r"close_when must be in \(0, 1\], got 1.5"),
        (posted(min_nodes=0), "min_nodes must be at least 1, got 0"),
        (posted(deadline=0), "deadline must be above 0 seconds, got 0"),
        (posted(deadline=float("nan")), "deadline must be above 0 seconds, got nan"),
        (posted(wait_seconds=float("nan")), "must be at least 0, got nan and"),
        (posted(audit_seconds=-1.0), "must be at least 0, got .* and -1"),
        (
            lambda path: ProofOfPrediction([VoteTask(np.arange(6), 3)], path).start(
                InMemoryGrid(), timeout=0.0
            ),
            "deadline must be above 0 seconds, got 0",
        ),
        (
            lambda path: ProofOfPrediction([VoteTask(np.arange(3), 2)], Path("state")),
            "state_dir must be an absolute path, got 'state'",
        ),
    ],
)
def test_wrong_parameters_are_named_before_anything_is_written(
    make: Callable[[Path], object], match: str, tmp_path: Path
) -> None:
    with pytest.raises(TaskError, match=match):
        make(tmp_path / "state")
    assert list(tmp_path.iterdir()) == []


def test_lists_and_numpys_numbers_are_taken(tmp_path: Path) -> None:
    plain = VoteTask([[0], [1]], np.int64(3))  # type: ignore[arg-type]
    assert plain.class_names == ("0", "1", "2")
    assert len(plain.sample_set) == 2
    ProofOfPrediction([plain], tmp_path)


@pytest.mark.parametrize("name", ["file", "file/inside"])
def test_a_state_dir_that_is_no_folder_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(KeyFormatError, match=f"{name}: expected a folder for server.key"):
        ProofOfPrediction([task()], tmp_path / name).start(InMemoryGrid())
    assert (tmp_path / "file").read_text() == "mine"


# -- late, killed and restarted --------------------------------------------------------------


def test_a_ballot_after_its_absence_is_stored_and_not_counted(tmp_path: Path) -> None:
    nodes = [honest(1.0, seed=i) for i in range(3)]
    options: dict[str, Any] = {"rule": "all", "wave_size": 1}
    killed([task()], nodes, tmp_path, after="posted", **options)
    first, second, third = ranks(tmp_path)
    # Rank 0 answers 2 s after its deadline, while rank 1 is working.
    nodes[first] = replace(nodes[first], delay=62.0)
    nodes[second] = replace(nodes[second], delay=10.0)
    events: list[tuple[str, str]] = []
    result = run(
        [task()],
        nodes,
        tmp_path,
        seed=2,
        **options,
        on_event=lambda event: events.append((event.what, event.node)),
    )
    (decided,) = result.tasks
    assert ("late", f"honest-{first}") in events
    assert decided.absent == {f"honest-{first}": "deadline"}
    assert set(decided.ballots) == {f"honest-{i}" for i in (first, second, third)}
    assert (decided.outcomes.support == 2).all()
    (close,) = of_kind(result.ledger, Close)
    assert (close.counted, close.uncounted, close.absent) == (2, 1, 1)
    assert query(result.ledger, "SELECT DISTINCT node FROM vote ORDER BY node") == sorted(
        [(f"honest-{second}",), (f"honest-{third}",)]
    )


@pytest.mark.parametrize("count", [1, 3, 6])
def test_a_server_that_died_finishes_the_task_with_every_ballot(tmp_path: Path, count: int) -> None:
    nodes = [honest(0.8, seed=i) for i in range(7)]
    pool = [task(first=0), task(first=60)]
    killed(pool, nodes, tmp_path, after="ballot", count=count, rule="all")
    before = log_of(tmp_path / "ledger.db")
    acknowledged = ballots(tmp_path / "ledger.db")
    assert len(acknowledged) == count
    signed = population_files(tmp_path, "*.ballot")
    assert len(signed) >= count

    result = run(pool, nodes, tmp_path, seed=99, rule="all")
    assert log_of(result.ledger)[: len(before)] == before
    assert [decided.number for decided in result.tasks] == [1, 2]
    assert all(len(decided.ballots) == 7 for decided in result.tasks)
    stored = {entry.encode() for entry in of_kind(result.ledger, Ballot)}
    after = population_files(tmp_path, "*.ballot")
    assert {path: after[path] for path in signed} == signed
    assert set(after.values()) == stored
    assert {ballot.encode() for ballot in acknowledged.values()} <= stored


def test_a_killed_server_gives_new_deadlines_to_those_who_have_not_answered(tmp_path: Path) -> None:
    nodes = [truthful(), truthful(), silent()]
    killed([task()], nodes, tmp_path, after="ballot", count=2, rule="all")
    clock = SimulatedClock()
    result = run([task()], nodes, tmp_path, seed=1, rule="all", clock=clock)
    assert result.tasks[0].absent == {"silent-2": "deadline"}
    assert clock.now >= 60.0


def test_a_voter_that_was_revoked_while_its_task_is_open_is_absent(tmp_path: Path) -> None:
    """Its key was stolen and the server stopped; the change takes effect with the next task."""
    nodes = [truthful(), truthful(), silent()]
    killed([task()], nodes, tmp_path, after="ballot", rule="all")
    with open_state(tmp_path) as ledger:
        change_roster(ledger, revoke=["silent-2"])
    result = run([task()], nodes, tmp_path, seed=1, rule="all", deadline=5.0, wait_seconds=5.0)
    (decided,) = result.tasks
    assert (set(decided.ballots), decided.absent) == (
        {"node-0", "node-1"},
        {"silent-2": "deadline"},
    )


def test_a_restart_with_too_few_nodes_still_finishes_the_open_task(tmp_path: Path) -> None:
    nodes = [truthful() for _ in range(4)]
    killed([task()], nodes, tmp_path, after="ballot", count=3, rule="all")
    result = run([task()], nodes[:1], tmp_path, seed=5, rule="all", min_nodes=4)
    (decided,) = result.tasks
    assert len(decided.ballots) + len(decided.absent) == 4
    assert len(decided.ballots) >= 3


def test_a_restarted_server_waits_for_those_who_owe_a_ballot(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A SuperLink that is started again has no node: they come back later than a deadline."""
    nodes = [truthful() for _ in range(3)]
    killed([task()], nodes, tmp_path, after="ballot", rule="all")
    clock, back = SimulatedClock(), population(nodes, tmp_path)
    with InMemoryGrid([], seed=5, workers=1, clock=clock) as grid:

        def sleep(seconds: float) -> None:
            clock.sleep(seconds)
            while back and clock.now > 200:
                grid.join(back.pop())

        strategy = ProofOfPrediction(
            [task()], tmp_path, min_nodes=3, deadline=60.0, wait_seconds=300.0, rule="all",
            collector=clock.collector, clock=clock, sleep=sleep,
        )  # fmt: skip
        with caplog.at_level("INFO", logger="flwr.rtc_flower"):
            (decided,) = strategy.start(grid).tasks
    assert (len(decided.ballots), decided.absent) == (3, {})
    assert 200 < clock.now < 300
    (said,) = (r.message for r in caplog.records if r.message.startswith("waiting up to 300 s"))
    assert said.endswith(", to vote on task 1, which was open")


def test_a_task_that_rests_on_fewer_ballots_than_nodes_it_was_posted_for_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("WARNING", logger="flwr.rtc_flower"):
        run([task()], [truthful(), silent(), silent()], tmp_path, min_nodes=3)
    said = [r.message for r in caplog.records if "rests on" in r.message]
    assert said == [
        "task 1 rests on 1 ballots, fewer than the 3 nodes it was posted for; absent: silent-1, "
        "silent-2"
    ]
    caplog.clear()
    run([task()], [truthful() for _ in range(3)], tmp_path / "all", min_nodes=3)
    assert not [r for r in caplog.records if "rests on" in r.message]


def test_a_pool_killed_in_its_second_task_goes_on_behind_it(tmp_path: Path) -> None:
    nodes = [truthful() for _ in range(3)]
    pool = [task(), task(), task()]  # the same samples, so that only the position tells them apart
    closed = 0

    class KilledError(Exception):
        pass

    def die(event: Event) -> None:
        nonlocal closed
        closed += event.what == "closed"
        if closed == 1 and event.what == "ballot":
            raise KilledError

    with pytest.raises(KilledError):
        run(pool, nodes, tmp_path, rule="all", on_event=die)
    result = run(pool, nodes, tmp_path, seed=5, rule="all")
    assert [decided.number for decided in result.tasks] == [2, 3]
    assert_verified(result)
    again = run(pool, nodes, tmp_path, seed=6, rule="all")
    assert [decided.number for decided in again.tasks] == [4, 5, 6]


def test_a_pool_killed_between_two_tasks_does_not_ask_the_first_again(tmp_path: Path) -> None:
    nodes = [truthful() for _ in range(3)]
    killed([task(), task()], nodes, tmp_path, after="closed", rule="all")
    result = run([task(), task()], nodes, tmp_path, seed=5, rule="all")
    assert [decided.number for decided in result.tasks] == [2]
    assert_verified(result)


# -- orders and waves ------------------------------------------------------------------------


def test_under_invitation_no_order_of_arrival_changes_an_outcome(tmp_path: Path) -> None:
    nodes = [honest(0.5, seed=i) for i in range(8)]
    options: dict[str, Any] = {"rule": "certified", "inv_delta": 20, "lead": 2}
    killed([task()], nodes, tmp_path / "a", after="posted", **options)
    seen: set[bytes] = set()
    arrived: set[tuple[str, ...]] = set()
    for seed in range(6):
        state_dir = copied(tmp_path / "a", tmp_path / str(seed))
        moved = [replace(node, delay=float((i * seed) % 7)) for i, node in enumerate(nodes)]
        wave = {0: None, 1: 1, 2: 3}.get(seed)
        result = run([task()], moved, state_dir, seed=seed, wave_size=wave, **options)
        (decided,) = result.tasks
        if wave is None:  # waves change which samples are asked, never an outcome
            arrived.add(tuple(decided.ballots))
        assert_verified(result)
        seen.add(decided.outcomes.digest(decided.task_id))
    assert len(arrived) > 1
    assert len(seen) == 1


def test_in_waves_idle_nodes_stay_idle_and_only_open_samples_are_asked(tmp_path: Path) -> None:
    calls: list[int] = []

    def unsure(X: Any) -> Any:
        calls.append(len(X))
        shift = len(calls) if len(calls) <= 8 else 0
        return np.where(X[:, 1] < 50, X[:, 0], (X[:, 0] + shift) % K)

    nodes = [node_of(contract(unsure)) for _ in range(30)]
    result = run([task()], nodes, tmp_path, rule="certified", inv_delta=20, wave_size=8)
    (decided,) = result.tasks
    assert decided.reason == "decided"
    asked = [entry.more for entry in of_kind(result.ledger, Invite)]
    assert set(asked) == {8}
    assert 1 < len(asked) < 4
    assert len(decided.idle) == 30 - sum(asked)
    assert len(calls) == sum(asked)
    assert calls[:8] == [60] * 8
    assert calls[8:16] == [10] * 8
    assert (decided.outcomes.classes == labels()).all()
    tally = replayed(result.ledger).tally
    assert tally is not None
    later = [b for b in of_kind(result.ledger, Ballot) if b.header.voter in tally.ranks[8:16]]
    codes = np.frombuffer(later[0].votes, np.uint8)
    assert ((codes == 254) == ~tally.asked(later[0].header.voter)).all()


def test_a_silent_low_rank_holds_the_count_up_and_the_next_wave_is_invited_ahead(
    tmp_path: Path,
) -> None:
    nodes = [honest(1.0, seed=i) for i in range(9)]
    options: dict[str, Any] = {"rule": "certified", "inv_delta": 20, "wave_size": 3}
    killed([task()], nodes, tmp_path, after="posted", **options)
    first = ranks(tmp_path)[0]
    nodes[first] = replace(nodes[first], silent=True)
    times: dict[str, list[float]] = {}
    clock = SimulatedClock()
    invited: list[int] = []

    def note(event: Event) -> None:
        times.setdefault(event.what, []).append(clock.now)
        invited.append(event.ballots)

    result = run(
        [task()], nodes, tmp_path, seed=3, clock=clock, invite_ahead=1, on_event=note, **options
    )
    (decided,) = result.tasks
    assert decided.absent[f"honest-{first}"] == "deadline"
    # The second wave was asked once the silent one had used half its time, before its deadline.
    assert sum(when < 30 for when in times["asked"]) == 3
    assert sum(when < 60 for when in times["asked"]) == 6
    assert sum(when < 60 for when in times["ballot"]) == 5
    assert (decided.outcomes.classes == labels()).all()


# -- attacks and faults of transport ---------------------------------------------------------


def test_a_forged_reply_in_another_nodes_name_changes_no_outcome(tmp_path: Path) -> None:
    others = [honest(0.7, seed=i, delay=5.0 + i) for i in range(5)]
    honest_only = run([task()], others, tmp_path / "a", rule="all").tasks[0].outcomes
    result = run([task()], [*others, forging(2, 0.0)], tmp_path / "b", rule="all")
    (decided,) = result.tasks
    assert refused(result.ledger) == [("honest-2", Refusal.CONTEXT)]
    assert set(decided.ballots) == {f"honest-{i}" for i in range(5)}
    assert decided.absent == {"forging-5": "deadline"}
    assert (decided.outcomes.support == honest_only.support).all()


def test_a_node_that_signs_twice_counts_once(tmp_path: Path) -> None:
    nodes = [equivocating(1.0, victim=1), truthful(delay=5.0), truthful(delay=6.0)]
    result = run([task()], nodes, tmp_path, rule="all")
    assert (result.tasks[0].outcomes.support == 3).all()
    stored = ballots(result.ledger)
    assert len(stored) == 3
    assert key_of(tmp_path, 0).public == stored["equivocating-0"].header.voter


def test_sybils_win_only_with_a_plurality(tmp_path: Path) -> None:
    few = run(
        [task()], [*(truthful() for _ in range(4)), *(sybil() for _ in range(3))], tmp_path / "a"
    )
    many = run(
        [task()], [*(truthful() for _ in range(3)), *(sybil() for _ in range(4))], tmp_path / "b"
    )
    assert (few.tasks[0].outcomes.classes == labels()).all()
    assert (many.tasks[0].outcomes.classes == (labels() + 1) % K).all()


def test_crashes_are_asked_again_and_settle_as_errors(tmp_path: Path) -> None:
    calls: list[int] = []

    def third_time(message: Any) -> bool:
        if asked_to_vote(message):
            calls.append(1)
        return asked_to_vote(message) and len(calls) < 3

    nodes = [
        truthful(),
        truthful(),
        replace(truthful(), crash_after=0, when=third_time),
        replace(truthful(), crash_after=0),
    ]
    result = run([task()], nodes, tmp_path, rule="all")
    assert set(result.tasks[0].ballots) == {"node-0", "node-1", "node-2"}
    assert result.tasks[0].absent == {"node-3": "error"}


def test_a_stuck_upload_holds_up_nobody_in_real_time(tmp_path: Path) -> None:
    def collector(grid: Any) -> Collector:
        return Collector(grid, workers=1, poll=0.01, stuck_after=0.2)

    nodes = population([truthful(), truthful(stuck=600.0), truthful()], tmp_path)
    events: list[str] = []
    began = time.monotonic()
    strategy = ProofOfPrediction(
        [task()],
        tmp_path,
        min_nodes=3,
        deadline=3.0,
        rule="all",
        collector=collector,
        on_event=lambda event: events.append(f"{event.what} {event.node}"),
    )
    with InMemoryGrid(nodes) as grid:
        result = strategy.start(grid)
    assert time.monotonic() - began < 20
    assert set(result.tasks[0].ballots) == {"node-0", "node-2"}
    assert result.tasks[0].absent == {"node-1": "deadline"}
    assert_verified(result)


def test_what_happens_is_told_and_no_class_is(tmp_path: Path) -> None:
    told: list[Event] = []
    result = run(
        [task()], [truthful(), truthful(), silent()], tmp_path, on_event=told.append, rule="all"
    )
    kinds = [event.what for event in told]
    assert kinds[0] == "posted"
    assert kinds[-1] == "closed"
    assert kinds.count("asked") == 3
    assert kinds.count("ballot") == 2
    assert [event.ballots for event in told if event.what == "ballot"] == [1, 2]
    assert {event.task for event in told} == {1}
    (close,) = of_kind(result.ledger, Close)
    assert close.reason is CloseReason.EXHAUSTED
    (posting,) = of_kind(result.ledger, Task)
    assert posting.n == 60


def test_flowers_interface_sends_nothing_of_its_own(tmp_path: Path) -> None:
    from flwr.app import ArrayRecord, ConfigRecord

    strategy = ProofOfPrediction([task()], tmp_path)
    with InMemoryGrid([SimulatedNode(lambda m, c: m)]) as grid:
        arguments = (1, ArrayRecord(), ConfigRecord(), grid)
        assert list(strategy.configure_train(*arguments)) == []
        assert list(strategy.configure_evaluate(*arguments)) == []
    assert strategy.aggregate_train(1, []) == (None, None)
    assert strategy.aggregate_evaluate(1, []) is None
