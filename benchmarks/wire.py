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

from common import say

from rtc_flower.deployment import Deployment, Node
from rtc_flower.processes import free_ports

__all__ = ["CountingProxy", "averaged_for_real"]

HERE = Path(__file__).resolve().parent
HOST = "127.0.0.1"


class CountingProxy:
    """A TCP proxy to a port of this machine; a context manager.

    Attributes
    ----------
    address : str
        Where it listens.
    up, down : int
        Bytes from and to those who connected.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._server = socket.create_server((HOST, 0), backlog=128)
        self.address = f"{HOST}:{self._server.getsockname()[1]}"
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


def averaged_for_real(
    *, nodes: int, size: int, seed: int, rounds: int, data_dir: Path | None
) -> dict[str, Any]:
    """Run FedAvg with real processes that train, and count what nodes send and receive.

    Returns
    -------
    dict
        ``up`` and ``down`` in bytes per node and ``seconds``, from the nodes' start to the end of
        the run.
    """
    say(f"FedAvg with {nodes} SuperNodes, counting bytes")
    shared = {} if data_dir is None else {"data-dir": str(data_dir.resolve())}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (port,) = free_ports(1)
        with CountingProxy(port) as proxy:
            configured = [
                Node(
                    {
                        **shared,
                        "partition-id": i,
                        "samples-per-node": size,
                        "seed": seed,
                        "state-dir": str(work / "nodes" / str(i)),
                    },
                    python_path=[HERE],
                    superlink=proxy.address,
                )
                for i in range(nodes)
            ]
            begin = time.perf_counter()
            with Deployment(
                HERE / "apps" / "fedavg",
                configured,
                work_dir=work / "flower",
                run_config={"rounds": rounds, "seed": seed, "min-nodes": nodes},
                superlink_port=port,
                startup_timeout=300.0,
            ) as running:
                for _ in running.run(timeout=3_000):
                    pass
                counted = {"up": proxy.up / nodes, "down": proxy.down / nodes}
            return {**counted, "seconds": time.perf_counter() - begin, "rounds": rounds}
