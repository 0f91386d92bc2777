"""The example apps, run as they are: in memory by default, by Flower's own programs when slow."""

from __future__ import annotations

import importlib
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any
from zipfile import ZipFile

import numpy as np
import pytest
from flwr.app import Context, Message, RecordDict
from real_votes import EXAMPLES, PATIENCE, Running, Vote
from test_deployment import assert_nothing_left

from rtc_flower.deployment import Deployment, Node
from rtc_flower.errors import QuorumError, TaskError
from rtc_flower.reading import list_tasks, votes_of
from rtc_flower.simulator import InMemoryGrid, SimulatedNode, asked_to_vote
from rtc_flower.verify import verify

APPS = sorted(path.name for path in EXAMPLES.iterdir() if (path / "pyproject.toml").is_file())
HOSPITAL_B = EXAMPLES / "bring-your-own" / "hospital_b_package"

Value = str | int | float | bool


def settings_of(app: str) -> dict[str, Any]:
    """The app's ``[tool.flwr.app]``."""
    parsed = tomllib.loads((EXAMPLES / app / "pyproject.toml").read_text())
    found: dict[str, Any] = parsed["tool"]["flwr"]["app"]
    return found


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], ModuleType]]:
    """Import a module of an app as Flower does: with the app's folder first on the path."""
    before = set(sys.modules)

    def load(app: str, name: str) -> ModuleType:
        monkeypatch.syspath_prepend(str(EXAMPLES / app))
        return importlib.import_module(f"{app.replace('-', '_')}.{name}")

    yield load
    packages = {app.replace("-", "_") for app in APPS} | {"hospital_b"}
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in packages:
            del sys.modules[name]


Load = Callable[[str, str], ModuleType]


App = Callable[[Message, Context], Message]


def run_in_memory(
    load: Load,
    app: str,
    nodes: Sequence[dict[str, Value]],
    config: dict[str, Value],
    *,
    first: Callable[[App], App] = lambda client: client,
    late: int = 0,
) -> None:
    """Run an app's own ServerApp and ClientApp on a grid in this process.

    ``first`` wraps the app of the first node; the last one joins after so many messages.
    """
    run_config = settings_of(app)["config"] | config
    client = load(app, "client_app").app
    members = [SimulatedNode(client, node_config=node, run_config=run_config) for node in nodes]
    if members:
        members[0] = replace(members[0], app=first(client))
        members[-1] = replace(members[-1], joins_after=late)
    context = Context(1, 1, {}, RecordDict(), run_config)
    with InMemoryGrid(members) as grid:
        load(app, "server_app").app(grid, context)


def digit_nodes(folder: Path, *models: str) -> list[dict[str, Value]]:
    return [
        {
            "partition-id": number,
            "num-partitions": 10,
            "model": model,
            "name": f"{model}-{number}",
            "state-dir": str(folder / "nodes" / str(number)),
        }
        for number, model in enumerate(models)
    ]


def party_nodes(folder: Path, key: str, models: dict[str, str]) -> list[dict[str, Value]]:
    """A node per party, with the path of its own table under ``key``."""
    return [
        {
            "name": party,
            "model": model,
            key: str(folder / f"{party}.npz"),
            "state-dir": str(folder / "nodes" / party),
        }
        for party, model in models.items()
    ]


HOSPITALS = {
    "hospital-a": "logistic",
    "hospital-b": "hospital_b.prototypes:Prototypes",
    "hospital-c": "forest",
}
PARTIES = {
    "ward": "logistic",
    "laboratory": "svm",
    "radiology": "knn",
    "pathology": "forest",
    "archive": "logistic",
}


def accuracies(ledger: Path, truth: Path) -> tuple[float, dict[str, float]]:
    """Share of samples decided rightly, and that of each node."""
    votes = votes_of(ledger, 1)
    with np.load(truth) as arrays:
        y = arrays["y"]
    each = {n: float((v == y).mean()) for n, v in zip(votes.names, votes.votes, strict=True)}
    return float((votes.classes == y).mean()), each


# What every app has


@pytest.mark.parametrize("app", APPS)
def test_an_app_is_complete(app: str) -> None:
    project = tomllib.loads((EXAMPLES / app / "pyproject.toml").read_text())["project"]
    package = app.replace("-", "_")
    components = settings_of(app)["components"]
    assert project["name"] == app
    assert components == {
        "serverapp": f"{package}.server_app:app",
        "clientapp": f"{package}.client_app:app",
    }
    readme = (EXAMPLES / app / "README.md").read_text()
    assert readme.startswith("---\ntags: [")
    head = readme.split("---")[1]
    assert "\ndataset: [" in head
    assert "\nframework: [" in head
    assert "flwr run examples/" + app in readme


@pytest.mark.parametrize("app", APPS)
def test_a_readme_names_only_keys_and_files_that_exist(app: str) -> None:
    readme = (EXAMPLES / app / "README.md").read_text()
    keys = settings_of(app)["config"]
    given = re.findall(r"--run-config\s+\\?\s*'([^']*)'", readme)
    assert given
    for pair in " ".join(given).split():
        assert pair.partition("=")[0] in keys, pair
    for line in readme.splitlines():
        if line.startswith("python -m "):
            name = line.split()[2].replace(".", "/")
            assert (EXAMPLES / app / f"{name}.py").is_file()


@pytest.mark.parametrize("app", APPS)
def test_a_readme_gives_every_node_a_port_of_its_own(app: str) -> None:
    text = (EXAMPLES / app / "README.md").read_text()
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    stub = 'flower-supernode() { echo "$5"; }\n'  # --insecure --superlink ADDRESS --port PORT
    started = "".join(stub + block + "wait\n" for block in blocks if "flower-supernode" in block)
    ran = subprocess.run(["bash", "-c", started], capture_output=True, text=True, check=True)
    ports = ran.stdout.split()
    assert len(set(ports)) == len(ports) >= 3


def test_apps_without_a_state_dir_say_what_to_do(module: Load) -> None:
    with pytest.raises(TaskError, match=r"state_dir must be an absolute path"):
        run_in_memory(module, "task-pool", [], {})


# mnist-vote


def test_the_mnist_vote_decides_digits(
    module: Load, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nodes = digit_nodes(tmp_path, "svm", "knn", "logistic", "forest")
    for node in nodes:
        node["dataset"] = "digits"
    state = str(tmp_path / "server")
    config: dict[str, Value] = {"dataset": "digits", "min-nodes": 4, "state-dir": state}
    run_in_memory(module, "mnist-vote", nodes, config)
    assert "797 samples decided by 4 ballots" in capsys.readouterr().out
    assert verify(tmp_path / "server" / "ledger.db").summary == "ok"


# bring-your-own


def vote_of_hospitals(load: Load, folder: Path) -> Path:
    load("bring-your-own", "tables").write_tables(folder)
    nodes = party_nodes(folder, "data-path", HOSPITALS)
    run_in_memory(
        load,
        "bring-your-own",
        nodes,
        {"state-dir": str(folder / "server"), "samples": str(folder / "samples.npz")},
    )
    return folder / "server" / "ledger.db"


def test_hospitals_vote_with_models_of_their_own(
    module: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(HOSPITAL_B))
    ledger = vote_of_hospitals(module, tmp_path)
    assert verify(ledger).summary == "ok"
    consensus, each = accuracies(ledger, tmp_path / "truth.npz")
    assert set(each) == set(HOSPITALS)
    assert consensus > 0.95 > max(each.values())
    said = dict(zip(votes_of(ledger, 1).names, votes_of(ledger, 1).contracts, strict=True))
    assert said["hospital-b"] == "hospital B's prototypes"


def test_a_package_that_a_node_lacks_costs_only_its_vote(
    module: Load, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ledger = vote_of_hospitals(module, tmp_path)
    votes = votes_of(ledger, 1)
    assert sorted(votes.names) == ["hospital-a", "hospital-c"]
    assert votes.absent == {"hospital-b": "error"}
    assert "'hospital_b.prototypes' cannot be imported" in caplog.text
    assert "is it installed on this node?" in caplog.text
    assert verify(ledger).summary == "ok"


def test_voting_needs_no_torch(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        f"sys.path[:0] = {[str(EXAMPLES / 'bring-your-own'), str(HOSPITAL_B)]!r}\n"
        "from pathlib import Path\n"
        "from bring_your_own.tables import write_tables\n"
        "from bring_your_own.client_app import app as client\n"
        "from bring_your_own.server_app import app as server\n"
        "from rtc_flower.simulator import InMemoryGrid, SimulatedNode\n"
        "from flwr.app import Context, Message, RecordDict\n"
        f"folder = Path({str(tmp_path)!r}); write_tables(folder)\n"
        f"nodes = {party_nodes(tmp_path, 'data-path', HOSPITALS)!r}\n"
        f"config = {settings_of('bring-your-own')['config']!r}\n"
        "config |= {'state-dir': str(folder / 'server'), 'samples': str(folder / 'samples.npz')}\n"
        "with InMemoryGrid([SimulatedNode(client, node_config=n) for n in nodes]) as grid:\n"
        "    server(grid, Context(1, 1, {}, RecordDict(), config))\n"
        "assert 'sklearn' in sys.modules and 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert verify(tmp_path / "server" / "ledger.db").summary == "ok"


def test_what_is_hospital_bs_own_is_not_in_the_bundle(tmp_path: Path) -> None:
    flwr = Path(sys.executable).with_name("flwr")
    app = tmp_path / "bring-your-own"
    shutil.copytree(EXAMPLES / "bring-your-own", app)
    done = subprocess.run(
        [flwr, "build", "--app", app], cwd=tmp_path, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (bundle,) = tmp_path.glob("*.fab")
    names = ZipFile(bundle).namelist()
    assert "bring_your_own/client_app.py" in names
    assert not [name for name in names if "hospital_b" in name]


# ids-only


def test_parties_vote_by_name_alone(module: Load, tmp_path: Path) -> None:
    module("ids-only", "tables").write_tables(tmp_path)
    run_in_memory(
        module,
        "ids-only",
        party_nodes(tmp_path, "table", PARTIES),
        {"state-dir": str(tmp_path / "server"), "patients": str(tmp_path / "patients.txt")},
    )
    ledger = tmp_path / "server" / "ledger.db"
    assert verify(ledger).summary == "ok"
    consensus, each = accuracies(ledger, tmp_path / "truth.npz")
    assert set(each) == set(PARTIES)
    assert consensus > max(each.values())
    # Nothing but names: no array of the parties' tables is in the file.
    with np.load(tmp_path / "ward.npz") as table:
        assert table["measured"][:4].tobytes() not in ledger.read_bytes()


# task-pool


def test_kinds_select_contracts_and_a_late_node_votes_in_the_next_task(
    module: Load,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    nodes = digit_nodes(tmp_path, "svm", "knn", "logistic", "forest")
    nodes[1]["kinds"] = "parity"

    def waiting(client: App) -> App:
        """Hold the first task open until the late node is there."""

        def answer(message: Message, context: Context) -> Message:
            give_up = time.monotonic() + 60
            while asked_to_vote(message) and "forest-3 is here" not in caplog.text:
                assert time.monotonic() < give_up
                time.sleep(0.02)
            return client(message, context)

        return answer

    # Three hellos and a request: the late one joins when the first task has been posted.
    config: dict[str, Value] = {"state-dir": str(tmp_path / "server")}
    run_in_memory(module, "task-pool", nodes, config, first=waiting, late=4)
    ledger = tmp_path / "server" / "ledger.db"
    assert verify(ledger).summary == "ok"
    assert [(row.kind, row.k, row.electorate) for row in list_tasks(ledger)] == [
        ("digit", 10, 3),
        ("parity", 2, 4),
        ("digit", 10, 4),
    ]
    first, second, third = (votes_of(ledger, task) for task in (1, 2, 3))
    assert sorted(first.names) == ["logistic-2", "svm-0"]
    assert first.absent == third.absent == {"knn-1": "declined"}
    assert set(second.names) >= {"knn-1", "forest-3"}
    assert "forest-3" in third.names
    out = capsys.readouterr().out
    assert "task 1 (digit): logistic-2, svm-0 voted; absent: knn-1 declined" in out


def test_fewer_nodes_than_needed_post_nothing(module: Load, tmp_path: Path) -> None:
    config: dict[str, Value] = {"state-dir": str(tmp_path / "server"), "wait-seconds": 1}
    with pytest.raises(QuorumError, match="2 of 3 nodes connected within 1 s; nothing was posted"):
        run_in_memory(module, "task-pool", digit_nodes(tmp_path, "svm", "knn"), config)
    assert list_tasks(tmp_path / "server" / "ledger.db") == []


# By Flower's own programs


@pytest.mark.processes
@pytest.mark.slow
def test_hospital_b_alone_has_its_package(module: Load, tmp_path: Path) -> None:
    module("bring-your-own", "tables").write_tables(tmp_path)
    configs = party_nodes(tmp_path, "data-path", HOSPITALS)
    nodes = [Node(c, python_path=[HOSPITAL_B] if "b" in str(c["name"]) else []) for c in configs]
    # C also names hospital B's model, which is not on its path.
    nodes[2] = Node(configs[2] | {"model": HOSPITALS["hospital-b"]})
    config = {"state-dir": str(tmp_path / "server"), "samples": str(tmp_path / "samples.npz")}
    app = EXAMPLES / "bring-your-own"
    with Deployment(app, nodes, work_dir=tmp_path, run_config=config) as deployment:
        lines = list(deployment.run(timeout=PATIENCE))
    assert any("cannot be imported" in line for line in lines)
    votes = votes_of(tmp_path / "server" / "ledger.db", 1)
    assert sorted(votes.names) == ["hospital-a", "hospital-b"]
    assert votes.absent == {"hospital-c": "error"}
    assert verify(tmp_path / "server" / "ledger.db").summary == "ok"
    assert_nothing_left(tmp_path, patience=5)


@pytest.mark.processes
@pytest.mark.slow
def test_parties_vote_by_name_through_processes(module: Load, tmp_path: Path) -> None:
    module("ids-only", "tables").write_tables(tmp_path)
    nodes = [Node(config) for config in party_nodes(tmp_path, "table", PARTIES)]
    config = {"state-dir": str(tmp_path / "server"), "patients": str(tmp_path / "patients.txt")}
    app = EXAMPLES / "ids-only"
    with Deployment(app, nodes, work_dir=tmp_path, run_config=config) as deployment:
        lines = list(deployment.run(timeout=PATIENCE))
    assert any("469 patients decided by" in line for line in lines)
    consensus, each = accuracies(tmp_path / "server" / "ledger.db", tmp_path / "truth.npz")
    assert consensus > np.mean(list(each.values()))
    assert_nothing_left(tmp_path, patience=5)


@pytest.mark.processes
@pytest.mark.slow
def test_a_node_that_is_started_during_a_task_votes_in_the_next(tmp_path: Path) -> None:
    vote = Vote(tmp_path, ["odd_models:Waiting", "knn", "logistic", "svm"])
    nodes = [vote.node(i, late=i == 3) for i in range(4)]
    config = vote.run_config() | {"min-nodes": 3, "kinds": "digit,parity"}
    del config["dataset"]
    app = EXAMPLES / "task-pool"
    with Deployment(
        app, nodes, work_dir=tmp_path, run_config=config, wait_for_nodes=False
    ) as deployment:
        running = Running(deployment)
        running.until(lambda: vote.trains(0))
        deployment.start_node(3)
        running.until(lambda: running.says("svm-3 is here"))
        assert vote.told("closed") == []
        vote.release()
        running.finish()
    first, second = (votes_of(vote.ledger, task) for task in (1, 2))
    assert sorted(first.names) == ["knn-1", "logistic-2", "waiting-0"]
    assert "svm-3" in second.names
    assert [row.electorate for row in list_tasks(vote.ledger)] == [3, 4]
    assert verify(vote.ledger).summary == "ok"
    assert_nothing_left(tmp_path, patience=5)


@pytest.mark.processes
@pytest.mark.slow
@pytest.mark.parametrize("app", ["mnist-vote", "task-pool"])
def test_the_same_app_runs_in_simulation(app: str, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    config: dict[str, Value] = {
        "state-dir": str(tmp_path / "server"),
        "models": "svm,knn,logistic,forest",
        "min-nodes": 4,
    }
    if app == "mnist-vote":
        config["dataset"] = "digits"
    with Deployment(
        EXAMPLES / app, 4, work_dir=tmp_path, run_config=config, simulation=True
    ) as simulation:
        list(simulation.run(timeout=2 * PATIENCE))
    ledger = tmp_path / "server" / "ledger.db"
    assert verify(ledger).summary == "ok"
    votes = votes_of(ledger, 1)
    assert {contract.split()[0] for contract in votes.contracts} == {
        "svm",
        "knn",
        "logistic",
        "forest",
    }
    assert_nothing_left(tmp_path, patience=10)
