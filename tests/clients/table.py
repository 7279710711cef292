"""The tables of `docs/clients.md`, made from the results of a run."""

from __future__ import annotations

from collections.abc import Mapping

from tests.clients.clients import CLIENTS, Client

# checks that most clients have; each is a column
COLUMNS = {
    "chat": "chat",
    "stream": "stream",
    "tool_call": "tool call",
    "tool_call_streamed": "streamed call",
    "structured_output": "structured output",
    "overflow": "overflow",
    "error_text": "error text",
}
Results = Mapping[str, Mapping[str, str]]


def tables(results: Results) -> str:
    """Return the table of checks and the table of settings as Markdown.

    Args:
        results: a check's outcome (`passed`, `failed`, `skipped`), by the client's test file and the check's name.
    """
    clients = sorted(results, key=lambda name: CLIENTS[name].title)
    head = ("client", "version", *COLUMNS.values(), "also")
    checks = _markdown(head, [_checks(CLIENTS[name], results[name]) for name in clients])
    head = ("client", "settings; URL is the router's, TASK the name of a task")
    settings = _markdown(head, [(CLIENTS[name].title, CLIENTS[name].settings) for name in clients])
    return f"{checks}\n{settings}"


def _checks(client: Client, outcomes: Mapping[str, str]) -> tuple[str, ...]:
    columns = [_mark(outcomes[check]) if check in outcomes else "" for check in COLUMNS]
    others = [(check.replace("_", " "), outcome) for check, outcome in outcomes.items() if check not in COLUMNS]
    also = ", ".join(name if outcome == "passed" else f"{name}: {outcome}" for name, outcome in others)
    return client.title, client.version, *columns, also


def _mark(outcome: str) -> str:
    return "yes" if outcome == "passed" else outcome


def _markdown(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [f"| {' | '.join(row)} |\n" for row in (head, *rows)]
    return "".join([lines[0], "|---" * len(head) + "|\n", *lines[1:]])
