"""The in-memory grid keeps what a strategy can notice of Flower's deployment mode."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from flwr.supercore.task_identity import TaskIdentity

from rtc_flower.memory_grid import InMemoryGrid
from rtc_flower.memory_node import SimulatedNode


def echo_app() -> ClientApp:
    """Answer `query.echo` with the bytes sent, the node's name and how often it was called."""
    app = ClientApp()

    @app.query("echo")
    def echo(message: Message, context: Context) -> Message:
        state = context.state.config_records.get("calls", ConfigRecord({"n": 0}))
        calls = state["n"]
        assert isinstance(calls, int)
        context.state["calls"] = ConfigRecord({"n": calls + 1})
        answer = ConfigRecord(
            {
                "data": message.content.config_records["in"]["data"],
                "name": str(context.node_config.get("name", "")),
                "calls": calls,
            }
        )
        return Message(RecordDict({"out": answer}), reply_to=message)

    @app.query("boom")
    def boom(message: Message, context: Context) -> Message:
        raise ZeroDivisionError("division by zero")

    return app


def ask(node_id: int, action: str = "query.echo", *, ttl: float | None = None) -> Message:
    content = RecordDict({"in": ConfigRecord({"data": b"payload"})})
    return Message(content, node_id, action, ttl=ttl, group_id="1")


def pull(grid: Grid, ids: Iterable[str], *, within: float = 5.0) -> list[Message]:
    """Pull until every id has a reply."""
    waiting, replies, end = set(ids), list[Message](), time.monotonic() + within
    while waiting and time.monotonic() < end:
        for reply in grid.pull_messages(waiting):
            replies.append(reply)
            waiting.discard(reply.metadata.reply_to_message_id)
        time.sleep(0.002)
    assert not waiting
    return replies


def eventually(condition: Callable[[], bool], *, within: float = 5.0) -> bool:
    end = time.monotonic() + within
    while not condition() and time.monotonic() < end:
        time.sleep(0.005)
    return condition()


def only(grid: Grid, message: Message) -> Message:
    """Push one message and wait for its reply."""
    (reply,) = pull(grid, grid.push_messages([message]))
    return reply


def out(reply: Message) -> ConfigRecord:
    return reply.content.config_records["out"]


def node(**options: object) -> SimulatedNode:
    return SimulatedNode(echo_app(), **options)  # type: ignore[arg-type]


def test_a_client_app_answers_with_its_own_configuration() -> None:
    nodes = [node(node_config={"name": name}) for name in "abc"]
    with InMemoryGrid(nodes) as grid:
        ids = list(grid.get_node_ids())
        sent = grid.push_messages([ask(i) for i in ids])
        replies = {r.metadata.reply_to_message_id: r for r in pull(grid, sent)}
        assert [out(replies[i])["name"] for i in sent] == ["a", "b", "c"]
        assert [replies[i].metadata.src_node_id for i in sent] == ids
        assert len(set(sent) | {r.metadata.message_id for r in replies.values()}) == 6


def test_node_ids_are_unsigned_64_bit_and_follow_from_the_seed() -> None:
    def ids(seed: int) -> list[int]:
        with InMemoryGrid([node() for _ in range(50)], seed=seed) as grid:
            return list(grid.get_node_ids())

    assert ids(3) == ids(3) != ids(4)
    assert len(set(ids(3))) == 50
    assert sum(i >= 2**63 for i in ids(3)) == 25
    assert max(ids(3)) < 2**64


def test_state_persists_per_node_and_one_message_is_handled_at_a_time() -> None:
    inside, worst = [0], [0]
    guard = threading.Lock()
    app = echo_app()

    def watched(message: Message, context: Context) -> Message:
        with guard:
            inside[0] += 1
            worst[0] = max(worst[0], inside[0])
        time.sleep(0.01)
        reply = app(message, context)
        with guard:
            inside[0] -= 1
        return reply

    with InMemoryGrid([SimulatedNode(watched)]) as grid:
        (node_id,) = grid.get_node_ids()
        sent = grid.push_messages([ask(node_id) for _ in range(6)])
        replies = {r.metadata.reply_to_message_id: r for r in pull(grid, sent)}
        assert [out(replies[i])["calls"] for i in sent] == list(range(6))
    assert worst == [1]


def test_two_nodes_work_at_the_same_time() -> None:
    meeting = threading.Barrier(2, timeout=5)

    def meets(message: Message, context: Context) -> Message:
        meeting.wait()
        return Message(RecordDict(), reply_to=message)

    with InMemoryGrid([SimulatedNode(meets), SimulatedNode(meets)]) as grid:
        replies = pull(grid, grid.push_messages([ask(i) for i in grid.get_node_ids()]))
        assert [r.has_error() for r in replies] == [False, False]


def test_an_app_that_raises_is_error_2_and_so_is_an_unknown_action() -> None:
    with InMemoryGrid([node()]) as grid:
        (node_id,) = grid.get_node_ids()
        raised = only(grid, ask(node_id, "query.boom")).error
        assert raised.code == 2
        assert raised.reason == "<class 'ZeroDivisionError'>:<'division by zero'>"
        missing = only(grid, ask(node_id, "query.nosuch")).error
        assert missing.code == 2
        assert "nosuch" in str(missing.reason)


def test_a_reply_is_delivered_once_and_unknown_ids_are_error_3() -> None:
    with InMemoryGrid([node()]) as grid:
        (node_id,) = grid.get_node_ids()
        (sent,) = grid.push_messages([ask(node_id)])
        assert pull(grid, [sent])[0].has_content()
        for unknown in (sent, "nonsense", ""):
            (error,) = grid.pull_messages([unknown])
            assert error.error.code == 3
            assert error.metadata.reply_to_message_id == unknown
            assert error.metadata.src_node_id == 1


def test_a_push_to_an_unknown_node_gives_an_empty_id_and_stops_no_other() -> None:
    with InMemoryGrid([node()]) as grid:
        (node_id,) = grid.get_node_ids()
        first, second = grid.push_messages([ask(12345), ask(node_id)])
        assert first == ""
        assert pull(grid, [second])[0].has_content()


def test_a_message_that_expires_is_never_handed_to_its_node() -> None:
    now, calls = [time.time()], list[int]()
    hold = threading.Event()

    def slow(message: Message, context: Context) -> Message:
        calls.append(1)
        hold.wait(5)
        return Message(RecordDict(), reply_to=message)

    with InMemoryGrid([SimulatedNode(slow)], clock=lambda: now[0]) as grid:
        (node_id,) = grid.get_node_ids()
        busy, queued = grid.push_messages([ask(node_id), ask(node_id, ttl=60.0)])
        assert grid.pull_messages([queued]) == []
        now[0] += 61
        (error,) = grid.pull_messages([queued])
        assert error.error.code == 3
        hold.set()
        assert pull(grid, [busy])[0].has_content()
    assert calls == [1]


def test_what_a_node_changes_in_a_message_stays_with_it() -> None:
    def vandal(message: Message, context: Context) -> Message:
        message.content.config_records["in"]["data"] = b"changed"
        return Message(RecordDict(), reply_to=message)

    with InMemoryGrid([SimulatedNode(vandal)]) as grid:
        (node_id,) = grid.get_node_ids()
        message = ask(node_id)
        only(grid, message)
        assert message.content["in"]["data"] == b"payload"


def test_silent_and_slow_nodes_do_not_hold_up_a_pull() -> None:
    with InMemoryGrid([node(silent=True), node(delay=0.05), node()]) as grid:
        silent, slow, honest = grid.push_messages([ask(i) for i in grid.get_node_ids()])
        arrived = [r.metadata.reply_to_message_id for r in pull(grid, [honest])]
        arrived += [r.metadata.reply_to_message_id for r in pull(grid, [slow])]
        assert arrived == [honest, slow]
        assert grid.pull_messages([silent]) == []


@pytest.mark.parametrize(("code", "source_is_node", "listed"), [(8, True, 1), (5, False, 0)])
def test_crash(code: int, source_is_node: bool, listed: int) -> None:
    with InMemoryGrid([node(crash_after=1, crash_code=code)]) as grid:
        (node_id,) = grid.get_node_ids()
        assert only(grid, ask(node_id)).has_content()
        crashed = only(grid, ask(node_id))
        assert crashed.error.code == code
        assert crashed.metadata.src_node_id == (node_id if source_is_node else 1)
        assert len(grid.get_node_ids()) == listed


def test_an_app_that_returns_no_message_crashes() -> None:
    def forgets(message: Message, context: Context) -> Message:
        return None  # type: ignore[return-value]

    with InMemoryGrid([SimulatedNode(forgets)]) as grid:
        (node_id,) = grid.get_node_ids()
        assert only(grid, ask(node_id)).error.code == 8


def test_rubbish() -> None:
    kinds = ("empty", "records", "bytes", "huge")
    with InMemoryGrid([node(rubbish=kind) for kind in kinds]) as grid:
        empty, records, noise, huge = (only(grid, ask(i)).content for i in grid.get_node_ids())
    assert len(empty) == 0
    assert "out" not in records
    assert all(isinstance(record, MetricRecord) for record in records.values())
    data = noise.config_records["out"]["data"]
    assert isinstance(data, bytes)
    assert len(data) == len(b"payload")
    assert data != b"payload"
    assert huge.config_records["out"]["data"] == bytes(64 << 20)


def test_a_stuck_reply_blocks_its_pull_then_is_error_3() -> None:
    with InMemoryGrid([node(stuck=0.3)]) as grid:
        (node_id,) = grid.get_node_ids()
        started = time.monotonic()
        assert only(grid, ask(node_id)).error.code == 3
        assert time.monotonic() - started >= 0.3


def test_send_and_receive_waits_for_all_or_until_its_timeout() -> None:
    with InMemoryGrid([node(), node(), node(silent=True)]) as grid:
        first, second, silent = grid.get_node_ids()
        asked = [ask(first), ask(second), ask(12345)]
        replies = grid.send_and_receive(asked)
        assert sorted(r.has_error() for r in replies) == [False, False, True]
        assert grid.send_and_receive([ask(silent)], timeout=0.05) == []


def test_close_wakes_a_stuck_pull() -> None:
    grid = InMemoryGrid([node(stuck=600.0)])
    sent = grid.push_messages([ask(i) for i in grid.get_node_ids()])
    puller = threading.Thread(target=pull, args=(grid, sent), daemon=True)
    puller.start()
    grid.close()
    puller.join(timeout=5)
    assert not puller.is_alive()


def test_a_forged_reply_takes_the_place_of_the_true_one(caplog: pytest.LogCaptureFixture) -> None:
    forger_node = node(forge=0, node_config={"name": "forger"})
    now = [0.0]
    nodes = [node(delay=1.0), forger_node]
    with InMemoryGrid(nodes, workers=1, clock=lambda: now[0]) as grid:
        victim, forger = grid.get_node_ids()
        to_victim, to_forger = grid.push_messages([ask(victim), ask(forger)])
        # One node answers per pull, the slower one last; both replies are in before either is asked
        # for, and only the first counts.
        for _ in range(2):
            grid.pull_messages([])
            now[0] += 1.0
        assert f"a reply of node {victim} is refused" in caplog.text
        (reply,) = grid.pull_messages([to_victim, to_forger])
        assert reply.metadata.reply_to_message_id == to_victim
        assert reply.metadata.src_node_id == victim
        assert out(reply)["name"] == "forger"
        assert grid.pull_messages([to_victim])[0].error.code == 3


def test_tamper_and_when() -> None:
    def tamper(reply: Message) -> Message:
        out(reply)["data"] = b"tampered"
        return reply

    def second(message: Message) -> bool:
        return message.metadata.group_id == "2"

    with InMemoryGrid([node(tamper=tamper, when=second)]) as grid:
        (node_id,) = grid.get_node_ids()
        assert out(only(grid, ask(node_id)))["data"] == b"payload"
        later = ask(node_id)
        later.metadata.group_id = "2"
        assert out(only(grid, later))["data"] == b"tampered"


def test_nodes_join_later() -> None:
    with InMemoryGrid([node(), node(joins_after=2)]) as grid:
        (first,) = grid.get_node_ids()
        sent = grid.push_messages([ask(first), ask(first)])
        assert len(grid.get_node_ids()) == 2
        third = grid.join(node(node_config={"name": "third"}))
        assert list(grid.get_node_ids())[2] == third
        pull(grid, sent)
        assert out(only(grid, ask(third)))["name"] == "third"


def sequential_order(seed: int) -> list[str]:
    nodes = [node(node_config={"name": str(i)}, delay=60.0 * (i == 0)) for i in range(8)]
    now = [0.0]
    with InMemoryGrid(nodes, seed=seed, workers=1, clock=lambda: now[0]) as grid:
        sent = grid.push_messages([ask(i) for i in grid.get_node_ids()])
        before = threading.active_count()
        waiting, names = set(sent), list[str]()
        for number in range(len(sent)):
            if number == 7:
                assert grid.pull_messages(waiting) == []
                now[0] += 60.0
            (reply,) = grid.pull_messages(waiting)
            waiting.discard(reply.metadata.reply_to_message_id)
            names.append(str(out(reply)["name"]))
        assert threading.active_count() == before
        return names


def test_one_worker_answers_once_per_pull_in_an_order_that_follows_from_the_seed() -> None:
    assert sequential_order(1) == sequential_order(1)
    assert sorted(sequential_order(1)) == [str(i) for i in range(8)]
    assert len({tuple(sequential_order(seed)) for seed in range(5)}) > 1
    assert sequential_order(1)[-1] == "0"


def test_workers_bound_how_many_nodes_compute() -> None:
    guard, inside, worst = threading.Lock(), [0], [0]

    def counted(message: Message, context: Context) -> Message:
        with guard:
            inside[0] += 1
            worst[0] = max(worst[0], inside[0])
        time.sleep(0.01)
        with guard:
            inside[0] -= 1
        return Message(RecordDict(), reply_to=message)

    with InMemoryGrid([SimulatedNode(counted) for _ in range(12)], workers=3) as grid:
        pull(grid, grid.push_messages([ask(i) for i in grid.get_node_ids()]))
    assert 1 <= worst[0] <= 3


def test_two_hundred_nodes_leave_nothing_behind() -> None:
    with InMemoryGrid([node() for _ in range(200)]) as grid:
        replies = pull(grid, grid.push_messages([ask(i) for i in grid.get_node_ids()]))
        assert len({r.metadata.src_node_id for r in replies}) == 200
        assert not any(r.has_error() for r in replies)
    assert [t for t in threading.enumerate() if not t.daemon] == [threading.main_thread()]


def test_messages_can_be_built_inside_the_run_only() -> None:
    before = (TaskIdentity._run_id, TaskIdentity._node_id, TaskIdentity._task_id)
    with InMemoryGrid(run_id=77) as grid:
        assert ask(1).metadata.run_id == 77
        assert grid.run.run_id == 77
    assert (TaskIdentity._run_id, TaskIdentity._node_id, TaskIdentity._task_id) == before
    with pytest.raises(RuntimeError, match="closed"):
        grid.push_messages([])


@pytest.mark.parametrize(
    ("build", "match"),
    [
        (lambda: InMemoryGrid(workers=0), "workers is 0"),
        (lambda: node(delay=-1.0), "delay is -1.0"),
        (lambda: node(rubbish="mud"), "rubbish is 'mud'"),
        (lambda: node(crash_code=4), "crash_code is 4"),
    ],
)
def test_bad_parameters_are_named(build: Callable[[], object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        build()


def test_flowers_own_strategy_runs_on_it() -> None:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        arrays = message.content.array_records["arrays"].to_numpy_ndarrays()
        shifted = ArrayRecord([a + float(context.node_config["shift"]) for a in arrays])
        metrics = MetricRecord({"num-examples": 1})
        return Message(RecordDict({"arrays": shifted, "metrics": metrics}), reply_to=message)

    before = set(threading.enumerate())
    nodes = [SimulatedNode(app, node_config={"shift": shift}) for shift in (1, 2, 3)]
    with InMemoryGrid(nodes) as grid:
        strategy = FedAvg(fraction_evaluate=0.0)
        result = strategy.start(grid, ArrayRecord([np.zeros(4)]), num_rounds=2)
    np.testing.assert_allclose(result.arrays.to_numpy_ndarrays()[0], np.full(4, 4.0))
    assert eventually(lambda: set(threading.enumerate()) <= before), "telemetry?"
