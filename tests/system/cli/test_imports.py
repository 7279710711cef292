"""The imports of a command."""

import subprocess
import sys


def test_no_command_imports_an_engine() -> None:
    code = (
        "import sys; from sun_sglang.cli.main import build_app; build_app(); "
        "print({'torch', 'transformers', 'sglang'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_help_of_the_command_imports_no_heavy_library() -> None:
    code = (
        "import sys; from sun_sglang.cli.main import build_app; build_app(); "
        "print({'aiohttp', 'psutil', 'pydantic', 'yaml'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
