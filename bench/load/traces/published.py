"""The published traces that are known by their SHA-256, so that a result names its source and not only a file."""

from __future__ import annotations

_AZURE = "Azure/AzurePublicDataset b469a11, data/{}, CC-BY 4.0"
_MOONCAKE = "kvcache-ai/Mooncake 3cca71d, FAST25-release/traces/{}, Apache-2.0"

_SOURCES = {
    "54e9a6d2a4bd06ba1e060304b900abbc74cbea53de96506e60fe5bb4f2277fb6": _AZURE.format(
        "AzureLLMInferenceTrace_code.csv"
    ),
    "2f1e5b666d4e3055fdbba98598ce2ec307767b9064e03e2fa46676dbcc7d0bf8": _AZURE.format(
        "AzureLLMInferenceTrace_conv.csv"
    ),
    "b8cbb061a85206d729d91cdc2981f43c9e0d99209dce588d3af5f7934408b9df": _MOONCAKE.format("conversation_trace.jsonl"),
    "bd070915a98fc0ed264d7cfef2ce746002eb3076a695ec31ba2674c0111ec131": _MOONCAKE.format("synthetic_trace.jsonl"),
}


def source_of(sha256: str) -> str | None:
    """Return repository, revision, path and licence of a published trace; None for any other file."""
    return _SOURCES.get(sha256)
