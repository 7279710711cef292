"""The clients that are tested: the package of each test file, and the settings that its users need."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

NODE_MODULES = Path(__file__).parent / "node/node_modules"


class Client(NamedTuple):
    """One client, which `test_NAME.py` tests.

    Attributes:
        package: its name at PyPI or npm.
        settings: the settings that its users need, as Markdown.
        node: whether it is a package of npm.
        within: the package whose users choose this one; empty where they use it alone.
        part: the part of the package that is tested; empty for all.
    """

    package: str
    settings: str
    node: bool = False
    within: str = ""
    part: str = ""

    @property
    def title(self) -> str:
        return f"{self.package} ({'node' if self.node else self.part})" if self.node or self.part else self.package

    @property
    def version(self) -> str:
        """The version that is installed."""
        if not self.node:
            return version(self.package)
        own = _node_version(self.package)
        return f"{own}, {self.within} {_node_version(self.within)}" if self.within else own


CLIENTS = {
    "anthropic": Client("anthropic", "`base_url=URL`; `temperature` in `extra_body`"),
    "guidellm": Client("guidellm", "`--backend=kind=openai_http,target=URL,model=TASK`, `--tokenizer`"),
    "instructor": Client("instructor", "`Mode.JSON_SCHEMA`; in `Mode.TOOLS`, tools with `strict` (`extra_body`)"),
    "langchain": Client("langchain-openai", "`base_url=URL/v1`, `api_key`: any"),
    "litellm": Client("litellm", "`model=openai/TASK`, `api_base=URL/v1`, `api_key`: any"),
    "llama_index": Client(
        "llama-index-llms-openai-like", "`api_base=URL/v1`, `is_chat_model`, `is_function_calling_model`"
    ),
    "node_openai": Client("openai", "`baseURL: URL/v1`, `apiKey`: any", node=True),
    "node_vercel_chat": Client(
        "@ai-sdk/openai-compatible",
        "`createOpenAICompatible` with `baseURL: URL/v1`, `supportsStructuredOutputs`, `includeUsage` (streams)",
        node=True,
        within="ai",
    ),
    "node_vercel_responses": Client(
        "@ai-sdk/openai", "`createOpenAI` with `baseURL: URL/v1`, `apiKey`: any", node=True, within="ai"
    ),
    "openai": Client("openai", "`base_url=URL/v1`, `api_key`: any"),
    "openai_responses": Client("openai", "as for `openai`", part="responses"),
    "openai_agents": Client("openai-agents", "`AsyncOpenAI(base_url=URL/v1)` as the model's client; tracing off"),
    "pydantic_ai": Client("pydantic-ai-slim", "`OpenAIProvider(base_url=URL/v1)`"),
}


def _node_version(package: str) -> str:
    return str(json.loads((NODE_MODULES / package / "package.json").read_text())["version"])
