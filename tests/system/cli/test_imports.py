"""The imports of a command."""

import subprocess
import sys


def imported_by_the_command(*modules: str) -> str:
    """Return the text of the set of those modules that the `sun` command has imported when it can show its help."""
    code = (
        "import sys; from sun_sglang.cli.main import build_app; build_app(); "
        f"print(set({modules!r}) & {{*sys.modules}})"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_no_command_imports_an_engine() -> None:
    assert imported_by_the_command("torch", "transformers", "sglang") == "set()"


def test_help_of_the_command_imports_no_heavy_library() -> None:
    assert imported_by_the_command("aiohttp", "psutil", "pydantic", "yaml") == "set()"
