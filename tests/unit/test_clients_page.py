"""`docs/clients.md` names the versions that `make test-clients` runs."""

from __future__ import annotations

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
LOCK = ROOT / "tests/clients/node/package-lock.json"
# client, what of it, its version, and those of the packages whose users choose it
ROW = re.compile(r"^\| ([@\w/-]+)(?: \((\w+)\))? \| (\d[\w.]*)((?:, [\w-]+ \d[\w.]*)*) \|", re.MULTILINE)


def _locked() -> dict[tuple[str, bool], str]:
    """Return the pinned versions by package and by whether it is node's."""
    pins = re.findall(r"^([\w-]+)==(\S+)$", (ROOT / "requirements/clients.txt").read_text(), re.MULTILINE)
    packages = json.loads(LOCK.read_text())["packages"]
    node = {name.removeprefix("node_modules/"): package["version"] for name, package in packages.items() if name}
    return {(name, False): version for name, version in pins} | {(name, True): v for name, v in node.items()}


def test_clients_page_names_the_locked_versions() -> None:
    rows = ROW.findall((ROOT / "docs/clients.md").read_text(encoding="utf-8"))
    named = {
        (package, part == "node", version)
        for client, part, own, others in rows
        for package, version in [(client, own), *(other.split(" ") for other in others.split(", ")[1:])]
    }
    locked = _locked()
    assert len(rows) == len(list((ROOT / "tests/clients").glob("test_*.py")))
    assert named == {(package, node, locked[package, node]) for package, node, _ in named}, (
        "run `make test-clients`, and write its tables into docs/clients.md"
    )


def test_node_lock_equals_the_package_file_and_names_no_registry() -> None:
    root = json.loads(LOCK.read_text())["packages"][""]
    assert root["dependencies"] == json.loads(LOCK.with_name("package.json").read_text())["dependencies"]
    assert "resolved" not in LOCK.read_text()
