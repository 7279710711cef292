"""`language`: a sentence to the name of its language, from the translated tldr pages (CC BY 4.0).

Source: github.com/tldr-pages/tldr, `pages.de/common` and so on. A sentence is the description of an example. No page is
in two splits, whatever its language.
"""

from __future__ import annotations

import re
from pathlib import Path

from sun_sglang.bench.smollm2.english.rows import Row, Splits, sample

SYSTEM = "Name the language of the text."
LANGUAGES = {
    "cs": "Czech",
    "de": "German",
    "es": "Spanish",
    "fr": "French",
    "id": "Indonesian",
    "it": "Italian",
    "nl": "Dutch",
    "pl": "Polish",
    "pt_BR": "Portuguese",
    "tr": "Turkish",
}
_TRAIN, _VALIDATION, _TEST = 40, 4, 20  # of each language
_SENTENCE = re.compile(r"^- (.{20,120}):$", re.M)
_MNEMONIC = re.compile(r"\[(\w+)\]")


def splits(source: Path) -> Splits:
    """Return the rows of the pages.

    Args:
        source: a checkout of the repository.
    """
    folders = {code: source / f"pages.{code}" / "common" for code in LANGUAGES}
    pages = sorted({page.name for folder in folders.values() for page in folder.iterdir()})
    drawn = sample(pages, len(pages), "language/pages")
    part_of = {page: ("test", "train", "train", "validation")[i % 4] for i, page in enumerate(drawn)}
    seen: set[str] = set()
    found: dict[str, list[Row]] = {"train": [], "validation": [], "test": []}
    for code, language in LANGUAGES.items():
        rows: dict[str, list[Row]] = {split: [] for split in found}
        for page in sorted(folders[code].iterdir()):
            text = page.read_text(encoding="utf-8")
            for sentence in _SENTENCE.findall(text):
                plain = _MNEMONIC.sub(r"\1", sentence).replace("`", "")
                if plain not in seen:
                    seen.add(plain)
                    rows[part_of[page.name]].append(Row(SYSTEM, plain, language))
        for split, count in (("train", _TRAIN), ("validation", _VALIDATION), ("test", _TEST)):
            found[split] += sample(rows[split], count, f"language/{code}/{split}")
    return {
        "train": sample(found["train"], len(found["train"]), "language/train"),
        "validation": found["validation"],
        "test": found["test"],
    }
