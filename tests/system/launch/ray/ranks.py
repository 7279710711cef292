"""A worker on several machines, without a model: its ranks meet at the address that they are given, and wait."""

from __future__ import annotations

import argparse
import os
import signal
import socket
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser()
    for flag in ("--node-rank", "--dist-init-addr", "--host", "--notes"):
        parser.add_argument(flag)
    given, _ = parser.parse_known_args()
    host, _, port = given.dist_init_addr.rpartition(":")
    note = Path(given.notes) / given.node_rank
    partial = note.with_suffix(".partial")
    partial.write_text(f"{os.getpid()} {given.host}")
    partial.rename(note)
    if given.node_rank == "0":
        with socket.create_server((host, int(port))) as server:
            peer, _ = server.accept()
            print("met rank", peer.recv(1).decode(), flush=True)  # noqa: T201 - the test reads it
            signal.pause()
    while True:
        try:
            with socket.create_connection((host, int(port))) as server:
                server.send(given.node_rank.encode())
                signal.pause()
        except ConnectionRefusedError:
            continue


main()
