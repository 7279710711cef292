"""`shell`: a request to a line of shell, from the tldr pages (CC BY 4.0).

Source: github.com/tldr-pages/tldr, `pages/common` and `pages/linux`, the pages of the programs below. The request is an
example's description with the program's name. Of an option's forms `{{[-a|--all]}}` the first is kept, of a command's
forms `{{[c|config]}}` the last, other placeholders lose their braces, and a registry's host is `registry.example.com`.
A program has examples in training and
others in test.
"""

from __future__ import annotations

import re
from pathlib import Path

from sun_sglang.bench.smollm2.english.rows import Row, Splits, sample

SYSTEM = "Write the request as one line of shell."
PROGRAMS = (
    *(
        "apt",
        "awk",
        "cat",
        "chmod",
        "chown",
        "cp",
        "crontab",
        "curl",
        "cut",
        "date",
        "dd",
        "df",
        "diff",
        "dig",
        "docker",
    ),
    *("du", "find", "git", "grep", "gzip", "head", "jq", "journalctl", "kill", "ln", "ls", "make", "mkdir", "mount"),
    *(
        "mv",
        "npm",
        "openssl",
        "pip",
        "ping",
        "ps",
        "rm",
        "rsync",
        "scp",
        "sed",
        "sort",
        "ssh",
        "systemctl",
        "tail",
        "tar",
    ),
    *("tee", "tmux", "top", "tr", "uniq", "unzip", "wc", "wget", "xargs", "zip"),
)
_TEST, _VALIDATION, _TRAIN = 200, 40, 1000
_LONGEST = 100  # characters of an answer
_EXAMPLE = re.compile(r"^- (?P<request>.+):\n\n`(?P<line>.+)`$", re.M)
_FORMS = re.compile(r"\{\{\[([^\]{}]+\|[^\]{}]+)\]\}\}")
_REGISTRY = re.compile(r"(?<=://)registry\.[\w.-]+")
_MNEMONIC = re.compile(r"\[(\w+)\]")


def splits(source: Path) -> Splits:
    """Return the rows of the pages.

    Args:
        source: a checkout of the repository.
    """
    found: dict[str, Row] = {}
    for page in sorted(page for part in ("common", "linux") for page in (source / "pages" / part).glob("*.md")):
        program = page.stem.split("-")[0]
        if program in PROGRAMS:
            for row in _rows(page, program):
                found.setdefault(row.question, row)
    drawn = sample(list(found.values()), min(len(found), _TEST + _VALIDATION + _TRAIN), "shell")
    return {
        "test": drawn[:_TEST],
        "validation": drawn[_TEST : _TEST + _VALIDATION],
        "train": drawn[_TEST + _VALIDATION :],
    }


def _rows(page: Path, program: str) -> list[Row]:
    rows = []
    for example in _EXAMPLE.finditer(page.read_text(encoding="utf-8")):
        request = _MNEMONIC.sub(r"\1", example["request"]).replace("`", "")
        line = _FORMS.sub(_one_form, example["line"]).replace("{{", "").replace("}}", "")
        line = _REGISTRY.sub("registry.example.com", line)
        # what is left of a placeholder with a choice is no shell
        if "[" not in line and "|" not in line.replace(" | ", " ") and len(line) <= _LONGEST:
            rows.append(Row(SYSTEM, f"{program}: {request}", line))
    return rows


def _one_form(forms: re.Match[str]) -> str:
    first, *_, last = forms[1].split("|")
    return first if first.startswith("-") else last
