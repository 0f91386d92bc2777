"""The README's code runs, its queries answer, and its commands exist."""

from __future__ import annotations

import re
import sqlite3
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from rtc_flower.cli import app
from rtc_flower.memory_grid import InMemoryGrid
from rtc_flower.memory_node import SimulatedNode
from rtc_flower.verify import verify

README = Path(__file__).resolve().parents[1] / "README.md"


def blocks(language: str) -> list[str]:
    """Fenced blocks of one language."""
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(), re.DOTALL)


class Threshold:
    """An estimator of ten lines, as a reader would bring one."""

    def fit(self, X: Any, y: Any) -> None:
        self.cut = (X[y == 0].mean() + X[y == 1].mean()) / 2

    def predict(self, X: Any) -> Any:
        return (X[:, 0] > self.cut).astype(int)


@pytest.fixture
def ledger(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """The ledger that the README's server and nodes write."""
    rng = np.random.default_rng(3)
    truth = rng.integers(0, 2, 20)
    names: dict[str, Any] = {
        "load_unlabelled_samples": lambda: (truth + rng.normal(0, 0.3, 20))[:, None],
        "load_private_data": lambda: (np.arange(10)[:, None] % 2, np.arange(10) % 2),
        "MyModel": Threshold,
    }
    server, client = blocks("python")
    exec(server.replace("/srv/vote", str(tmp_path / "server")), names)
    exec(client, names)
    nodes = [
        SimulatedNode(names["client_app"], node_config={"state-dir": str(tmp_path / str(i))})
        for i in range(3)
    ]
    with InMemoryGrid(nodes, seed=1) as grid:
        names["main"](grid, SimpleNamespace())
    said = capsys.readouterr().out
    assert re.search(r"\(([23]), \1\)", said)  # cosigned by all who had voted
    return tmp_path / "server" / "ledger.db"


def test_the_ten_line_server_and_node_decide_and_cosign(ledger: Path) -> None:
    assert verify(ledger).summary == "ok"


def test_every_query_answers(ledger: Path) -> None:
    (queries,) = blocks("sql")
    with sqlite3.connect(ledger) as connection:
        for query in queries.split(";"):
            if query.strip():
                asked = query.replace("sample = 12", "sample = 2")
                assert connection.execute(asked).fetchall(), query
    connection.close()


def test_every_command_exists() -> None:
    text = "\n".join(blocks("sh")) + README.read_text()
    named = set(re.findall(r"^rtc-flower ([a-z-]+)", text, re.MULTILINE))
    assert {"verify", "show", "export", "receipt", "compare", "replay", "plan"} <= named
    for command in sorted(named):
        result = CliRunner().invoke(app, [command, "--help"])
        assert result.exit_code == 0, command


def test_what_it_links_to_is_there() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README.read_text()):
        assert (README.parent / target).exists(), target
    assert sys.version_info >= (3, 11)
