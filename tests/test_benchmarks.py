"""The published benchmarks with tiny settings: they run, resume, and their JSON has the keys."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
SMALL = ("--nodes", "4", "--samples", "60", "--scale", "0.1", "--seeds", "0")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that the tests of this file share, as the benchmarks do."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def mnist() -> str:
    """Where MNIST is; skips without it, and fails in CI, which has it."""
    folder = os.environ.get("RTC_FLOWER_DATA", "")
    if (Path(folder) / "MNIST" / "raw").is_dir():
        return folder
    reason = "RTC_FLOWER_DATA names no folder that holds MNIST/raw"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def call(name: str, *options: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = dict(os.environ) | {"OMP_NUM_THREADS": "1"} | variables
    command = [sys.executable, str(BENCHMARKS / f"{name}.py"), *options]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)


def measured(name: str, out: Path, *options: str) -> dict[str, Any]:
    done = call(name, "--json", str(out), *options)
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(out.read_text())
    assert found["benchmark"] == name
    assert found["machine"]["cores"] >= 1
    assert len(found["load_average"]["after"]) == 3
    assert {"command", "seconds", "seeds", "settings"} <= set(found)
    return found


def test_missing_mnist_is_one_line_that_says_what_to_set(tmp_path: Path) -> None:
    out = tmp_path / "accuracy.json"
    done = call("accuracy", "--json", str(out), "--cache-dir", str(tmp_path), RTC_FLOWER_DATA="")
    assert done.returncode == 1
    assert "set RTC_FLOWER_DATA" in done.stderr
    assert "Traceback" not in done.stderr
    assert not out.exists()


def documents(folder: Path, *names: str) -> Path:
    """A copy of the README and of some figures, for another page."""
    root, docs = BENCHMARKS.parent, folder / "docs"
    (docs / "results").mkdir(parents=True)
    shutil.copy(root / "README.md", folder)
    for name in names:
        shutil.copy(root / "docs" / "results" / f"{name}.json", docs / "results")
    return docs


def test_page_and_readme_say_what_the_figures_say(tmp_path: Path) -> None:
    root = BENCHMARKS.parent
    names = [path.stem for path in (root / "docs" / "results").glob("*.json")]
    docs = documents(tmp_path, *names)
    done = call("results", "--docs", str(docs))
    assert done.returncode == 0, done.stderr[-2000:]
    assert (docs / "results.md").read_text() == (root / "docs" / "results.md").read_text()
    assert (tmp_path / "README.md").read_text() == (root / "README.md").read_text()


def test_page_without_figures_says_what_is_missing(tmp_path: Path) -> None:
    docs = documents(tmp_path, "fedavg")
    found = json.loads((docs / "results" / "fedavg.json").read_text())
    found["at_vote_accuracy"] = [{"round": None} for _ in found["seeds"]]  # never as good
    found["fedavg_accuracy_by_round"] = dict.fromkeys(found["fedavg_accuracy_by_round"], 0.5)
    (docs / "results" / "fedavg.json").write_text(json.dumps(found))
    done = call("results", "--docs", str(docs))
    assert done.returncode == 0, done.stderr[-2000:]
    page = (docs / "results.md").read_text()
    absent = "speedup, accuracy, robustness, stopping, waves, overhead, audit, ledger"
    assert f"**Missing: {absent}.**" in page
    assert "never as good within 20 rounds" in page
    assert "on accuracy" not in page
    assert "| yes |" not in page
    assert "Not measured yet: `python benchmarks/speedup.py`." in page
    assert "times as fast" not in (tmp_path / "README.md").read_text()


@pytest.mark.slow
def test_overhead_in_memory_has_its_keys(tmp_path: Path) -> None:
    options = ("--no-flower", "--scales", "2", "4", "--samples", "20", "--runs", "1")
    found = measured("overhead", tmp_path / "o.json", *options, "--cache-dir", str(tmp_path))
    assert [row["nodes"] for row in found["scale"]] == [2, 4]
    assert all(row["verify"] == "ok" and row["ledger_bytes"] > 0 for row in found["scale"])
    assert found["seconds_per_ballot_ratio"] > 0
    assert found["replay"]["verify"] == "ok"


@pytest.mark.slow
def test_audit_tells_its_bytes_and_the_vote_beside_it(tmp_path: Path) -> None:
    few = ("--nodes", "3", "--runs", "1", "--tasks", "4")
    found = measured("audit", tmp_path / "a.json", *few)
    off, light, full = found["rows"]
    assert [row["audit"] for row in found["rows"]] == ["off", "light", "full"]
    assert off["bytes_down_per_node"] == off["node_seconds"] == 0
    assert 0 < light["bytes_down_per_node"] < full["bytes_down_per_node"]
    assert light["node_seconds"] < full["node_seconds"]
    assert off["vote_bytes_per_node"] == pytest.approx(full["vote_bytes_per_node"], rel=0.01)
    assert off["vote_ratio_to_off"] == 1
    assert [row["audit"] for row in found["life"]] == ["light", "full"]
    for row in found["life"]:
        assert row["first_seconds"] > 0
        assert row["last_bytes"] < 2 * row["first_bytes"]


@pytest.mark.slow
def test_accuracy_and_what_is_made_of_its_ballots(tmp_path: Path, cache: Path, mnist: str) -> None:
    options = (*SMALL, "--cache-dir", str(cache), "--data-dir", mnist)
    mixes = ("--mixes", "plain", "strong", "--draws", "2")
    found = measured("accuracy", tmp_path / "a.json", *options, *mixes)
    assert set(found["curves"]) == {"plain", "strong"}
    assert set(found["curves"]["plain"]) == {"1", "2", "3"}
    assert 0.3 < found["mean_node"]["plain"] < 1
    assert 1 <= found["effective_votes"]["strong"] <= 4
    again = measured("accuracy", tmp_path / "b.json", *options, *mixes)
    assert again["by_seed"] == found["by_seed"]  # from the cache: nothing is trained twice

    attacked = measured("robustness", tmp_path / "r.json", *options, "--draws", "2")
    assert attacked["lazy"][0]["accuracy"] > attacked["sybil"][-1]["accuracy"]
    assert attacked["sybil"][-1]["expectation_says"] == "rival"

    stopped = measured("stopping", tmp_path / "s.json", *options, "--orders", "3")
    for key in ("mean_votes", "share_decided", "differing_samples", "error"):
        assert set(stopped[key]) == {"certain", "paper", "certified", "all"}
    assert stopped["mean_votes"]["all"] == 4
    assert stopped["mean_votes"]["certain"] <= 4
    assert stopped["differing_samples"]["certain"] == 0


@pytest.mark.slow
def test_a_cache_of_other_settings_is_refused(tmp_path: Path, cache: Path, mnist: str) -> None:
    options = ["--cache-dir", str(cache), "--data-dir", mnist, "--seeds", "0", "--mixes", "plain"]
    tiny = ["--nodes", "2", "--samples", "20", "--draws", "1"]
    first = call("accuracy", *options, *tiny, "--scale", "0.1", "--cache-dir", str(tmp_path))
    assert first.returncode == 0, first.stderr[-2000:]
    second = call("accuracy", *options, *tiny, "--scale", "0.2", "--cache-dir", str(tmp_path))
    assert second.returncode == 1
    assert "made with other settings (scale 0.1, not 0.2)" in second.stderr


@pytest.mark.slow
def test_speedup_and_fedavg_have_their_keys(tmp_path: Path, cache: Path, mnist: str) -> None:
    options = ["--nodes", "2", "--size", "250", "--samples", "100", "--epochs", "1", "--seeds", "0"]
    options += ["--cache-dir", str(cache), "--data-dir", mnist]
    found = measured(
        "speedup", tmp_path / "s.json", *options, "--no-flower", "--one-core", "--no-strong"
    )
    wanted = "critical_path_speedup training_speedup consensus_accuracy central_accuracy"
    wanted += " node_accuracy_mean total_node_cpu_seconds central_cpu_seconds node_peak_rss_mib"
    wanted += " central_peak_rss_mib network_bytes_per_node disk_bytes_per_node"
    assert all(found[key] > 0 for key in wanted.split())
    assert len(found["by_seed"]["0"]["series"]["node"]) > 0
    averaged = measured("fedavg", tmp_path / "f.json", *options, "--rounds", "2", "--no-flower")
    sent = averaged["vote_bytes_per_node"]
    assert sent["ballot_up"] < sent["samples_down"]
    first, last = averaged["by_seed"]["0"]["fedavg"][1:]
    assert last["bytes_down"] == pytest.approx(2 * first["bytes_down"], rel=0.01)
    assert set(averaged["fedavg_accuracy_by_round"]) == {"0", "1", "2"}
