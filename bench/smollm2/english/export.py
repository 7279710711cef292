"""Copy a trained adapter to the demo, in bfloat16 and without paths of the machine.

    python -m sun_sglang.bench.smollm2.english.export extract

Training keeps an adapter in float32. Serving in bfloat16 rounds it anyway, so half the size loses nothing.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from sun_sglang.errors import UserError

BUILT = Path("build/english")
ADAPTERS = Path("configs/demo/adapters")
BASE_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
_WEIGHTS, _CONFIG, _RECORD = "adapter_model.safetensors", "adapter_config.json", "sun.json"


def export(trained: Path, out: Path) -> int:
    """Write an adapter's weights in bfloat16, its settings and its `sun.json`; return the bytes of the weights.

    Args:
        trained: the `adapter` directory that `sun train` wrote.
        out: the new directory; an old one is replaced.

    Raises:
        UserError: the directory is no adapter of `sun train`.
    """
    import torch
    from safetensors.torch import load_file, save_file

    missing = [name for name in (_WEIGHTS, _CONFIG, _RECORD) if not (trained / name).exists()]
    if missing:
        raise UserError(f"{trained}: has no {missing[0]}; train it first: `sun train`")
    tensors = {name: value.to(torch.bfloat16).contiguous() for name, value in load_file(trained / _WEIGHTS).items()}
    settings = json.loads((trained / _CONFIG).read_text(encoding="utf-8"))
    settings |= {"base_model_name_or_path": BASE_NAME, "target_modules": sorted(settings["target_modules"])}
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    save_file(tensors, out / _WEIGHTS, metadata={"format": "pt"})
    (out / _WEIGHTS).chmod(0o644)
    (out / _CONFIG).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    shutil.copyfile(trained / _RECORD, out / _RECORD)
    return (out / _WEIGHTS).stat().st_size


def main(arguments: Sequence[str]) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m sun_sglang.bench.smollm2.english.export", description=__doc__.splitlines()[0]
    )
    parser.add_argument("adapter", nargs="+", help="folder below build/english, such as extract")
    parser.add_argument("--out", type=Path, default=ADAPTERS, help="folder of the copies")
    options = parser.parse_args(arguments)
    for name in options.adapter:
        out = options.out / name.replace("/", "-")
        try:
            size = export(BUILT / name / "adapter", out)
        except UserError as e:
            sys.stderr.write(f"export: {e}\n")
            return 1
        sys.stderr.write(f"export: {out}: {size / 1e6:.2f} MB\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
