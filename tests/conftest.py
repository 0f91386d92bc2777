import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from ledgers import SERVER, World, open_ledger

from rtc_flower.ledger import Ledger

settings.register_profile(
    "default",
    derandomize=True,
    deadline=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.fixture
def world() -> World:
    """Three enrolled voters and a log in memory, no task."""
    return World.with_voters(3)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    """Three enrolled voters and a file, no task."""
    with open_ledger(tmp_path / "ledger.db", voters=3) as opened:
        yield opened


@pytest.fixture
def reopen() -> Iterator[Callable[[Ledger], Ledger]]:
    """Close a ledger and open it again, as a restarted server does."""
    opened: list[Ledger] = []

    def again(ledger: Ledger) -> Ledger:
        ledger.close()
        opened.append(Ledger(ledger.path, SERVER))
        return opened[-1]

    yield again
    for ledger in opened:
        ledger.close()
