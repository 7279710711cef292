"""The imports of drawing a figure."""

from __future__ import annotations

import subprocess
import sys


def test_drawing_imports_no_engine() -> None:
    code = "import sys; import sun_sglang.bench.figures.registry; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
