"""What a command imports."""

import subprocess
import sys


def test_no_command_imports_an_engine() -> None:
    code = (
        "import sys; from sun_sglang.cli.main import build_app; build_app(); "
        "print({'torch', 'transformers', 'sglang'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
