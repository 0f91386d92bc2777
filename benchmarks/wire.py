"""Everything on the wire between SuperNodes and SuperLink: payload, polling, heartbeats, headers.

SuperNodes connect through a proxy that counts bytes, so that neither the SuperLink's own programs
nor the SuperNodes' local processes are in the figures, which a count of the loopback would add.
"""

from __future__ import annotations

import socket
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Self

from common import PlainCNN, say

from rtc_flower.demo import find_app
from rtc_flower.deployment import Deployment, Node
from rtc_flower.processes import free_ports

__all__ = ["CountingProxy", "deployed", "plain"]

HERE = Path(__file__).resolve().parent
HOST = "127.0.0.1"


def plain(*, seed: int = 0, **options: Any) -> PlainCNN:
    """Return the plain CNN as `speedup.py` trains it, for a node's ``model``."""
    return PlainCNN(epochs=8, augment=False, seed=seed)


class CountingProxy:
    """A TCP proxy to a port of this machine; a context manager.

    Attributes
    ----------
    port : int
        Where it listens.
    up, down : int
        Bytes from and to those who connected.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._server = socket.create_server((HOST, 0), backlog=128)
        self.port: int = self._server.getsockname()[1]
        self.up = self.down = 0
        self._counting = threading.Lock()

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return  # closed
            try:
                server = socket.create_connection((HOST, self._target))
            except OSError:
                client.close()  # the SuperLink is not up yet: the node tries again
                continue
            for source, sink, name in ((client, server, "up"), (server, client, "down")):
                arguments = (source, sink, name)
                threading.Thread(target=self._pump, args=arguments, daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, name: str) -> None:
        try:
            while data := source.recv(1 << 16):
                with self._counting:
                    setattr(self, name, getattr(self, name) + len(data))
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            for each in (source, sink):
                each.close()


def deployed(
    method: str, *, nodes: int, size: int, seed: int, rounds: int, data_dir: Path | None
) -> dict[str, Any]:
    """Run one method with real processes that train, and count what nodes send and receive.

    Parameters
    ----------
    method : {"vote", "fedavg"}
        The vote is the MNIST example's, with full audit; FedAvg runs ``rounds``.

    Returns
    -------
    dict
        ``up`` and ``down`` in bytes per node and ``seconds``, from the nodes' start to the end of
        the run.
    """
    say(f"{method} with {nodes} SuperNodes, counting bytes")
    shared = {} if data_dir is None else {"data-dir": str(data_dir.resolve())}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        run: dict[str, str | int | float | bool]
        if method == "vote":
            app = find_app()
            run = {**shared, "dataset": "mnist", "num-partitions": 50_000 // size, "seed": seed}
            run |= {"samples-per-node": size, "audit": "full", "state-dir": str(work / "server")}
        else:
            app, run = HERE / "apps" / "fedavg", {"rounds": rounds, "seed": seed}
        (port,) = free_ports(1)
        with CountingProxy(port) as proxy:
            configured = [
                Node(
                    {
                        **shared,
                        "partition-id": i,
                        "num-partitions": 50_000 // size,
                        "samples-per-node": size,
                        "dataset": "mnist",
                        "seed": seed,
                        "model": "wire:plain",
                        "name": f"node-{i}",
                        "state-dir": str(work / "nodes" / str(i)),
                    },
                    python_path=[HERE],
                    superlink=f"{HOST}:{proxy.port}",
                )
                for i in range(nodes)
            ]
            begin = time.perf_counter()
            with Deployment(
                app,
                configured,
                work_dir=work / "flower",
                run_config={**run, "min-nodes": nodes},
                superlink_port=port,
                startup_timeout=300.0,
            ) as running:
                for _ in running.run(timeout=3_000):
                    pass
                counted = {"up": proxy.up / nodes, "down": proxy.down / nodes}
            return {**counted, "seconds": time.perf_counter() - begin, "rounds": rounds}
