"""`topic`: a message to an assistant to one of ten topics, from CLINC150 (CC BY 3.0).

Source: github.com/clinc/oos-eval, `data/data_full.json` and `data/domains.json` (Larson et al., EMNLP 2019). The topics
are its ten domains, their underscores spaces; each row of its own splits stays in its split.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

from sun_sglang.bench.smollm2.english.rows import Row, Splits, sample

SYSTEM = "Name the topic of the message to the assistant."
_SIZES = {"train": ("train", 40), "validation": ("val", 4), "test": ("test", 20)}  # of each topic


def splits(source: Path) -> Splits:
    """Return the rows of the data set.

    Args:
        source: a checkout of the repository.
    """
    domains = json.loads((source / "data" / "domains.json").read_text(encoding="utf-8"))
    topics = {intent: domain.replace("_", " ") for domain, intents in domains.items() for intent in intents}
    rows = json.loads((source / "data" / "data_full.json").read_text(encoding="utf-8"))
    seen: set[str] = set()
    found: dict[str, list[Row]] = {}
    for split in ("test", "validation", "train"):
        name, count = _SIZES[split]
        by_topic: dict[str, list[Row]] = defaultdict(list)
        for text, intent in rows[name]:
            if text not in seen:
                seen.add(text)
                by_topic[topics[intent]].append(Row(SYSTEM, text, topics[intent]))
        drawn = [row for topic in sorted(by_topic) for row in sample(by_topic[topic], count, f"topic/{topic}/{split}")]
        found[split] = sample(drawn, len(drawn), f"topic/{split}")
    return {"train": found["train"], "validation": found["validation"], "test": found["test"]}
