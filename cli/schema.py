"""`sun schema`: the topology file for editors."""

from __future__ import annotations

import json
from typing import Any

import typer

EXAMPLE = "sun schema > sun.schema.json"


def command() -> None:
    """Print the JSON schema of the topology file; editors complete and check against it."""
    typer.echo(json.dumps(topology_schema(), indent=2))


def topology_schema() -> dict[str, Any]:
    """JSON schema (draft 2020-12) of a topology file."""
    from sun_sglang.topology import Topology

    dialect = "https://json-schema.org/draft/2020-12/schema"
    return {"$schema": dialect, **Topology.model_json_schema(), "title": "sun-sglang topology"}
