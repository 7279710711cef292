"""`sun schema`: print the JSON schema of the topology file."""

from __future__ import annotations

import json
from typing import Any

import typer

EXAMPLE = "sun schema > sun.schema.json"


def command() -> None:
    """Print the JSON schema of the topology file, for editors that complete and check it."""
    typer.echo(json.dumps(topology_schema(), indent=2))


def topology_schema() -> dict[str, Any]:
    """Return the JSON schema (draft 2020-12) of a topology file."""
    from sun_sglang.topology import Topology

    dialect = "https://json-schema.org/draft/2020-12/schema"
    return {"$schema": dialect, **Topology.model_json_schema(), "title": "sun-sglang topology"}
