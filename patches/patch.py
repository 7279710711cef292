"""What a hook on SGLang is, and the proof that it took.

SGLang's plugin loader logs a hook that fails and goes on (`sglang/srt/plugins/hook_registry.py`), so a worker can serve
unpatched without anyone noticing. Here each patch is looked at before it is registered (does the target exist, does it
take the arguments it took when the patch was written?) and after (is the hook what a caller of the target runs?).
"""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sun_sglang.contracts.worker_card import PatchReport
from sun_sglang.errors import PatchError

Signature = tuple[str, ...]
HookKind = Literal["before", "after", "around", "replace", "register"]


def needed() -> None:
    """The answer of a patch that every process needs."""


@dataclass(frozen=True)
class Patch:
    """One hook on one target.

    Attributes:
        name: the file that it stands in.
        target: dotted path of the function or method.
        parameters: names of the target's parameters in the versions where it applies, in order; one tuple for each
            signature.
        kind: as in `sglang.srt.plugins.hook_registry.HookType`, or `register` for something offered by name.
        hook: the function that SGLang calls.
        why: what goes wrong without it.
        versions: the SGLang versions that it was run on, and what it does on each.
        way_out: when it can go.
        unneeded: returns why this process does not need it; None where it does.
    """

    name: str
    target: str
    parameters: tuple[Signature, ...]
    kind: HookKind
    hook: Callable[..., Any]
    why: str
    versions: Mapping[str, str]
    way_out: str
    unneeded: Callable[[], str | None] = needed

    def require_target(self) -> None:
        """Raise unless the target exists and takes the arguments that it took when this was written.

        Raises:
            PatchError: names the patch, the target and the difference.
        """
        self.require_parameters(self._resolve(), self.target, self.parameters)

    def require_parameters(self, function: Any, name: str, expected: Sequence[Signature]) -> None:
        """Raise unless a function takes the arguments that it took when this was written.

        Raises:
            PatchError: names the patch, the function and the difference.
        """
        if function is None:
            raise PatchError(f"patch `{self.name}`: {name} is gone")
        # a classmethod's own function, whose signature is the same before and after it was wrapped
        plain = inspect.unwrap(getattr(function, "__func__", function))
        found = tuple(inspect.signature(plain).parameters)
        if found not in expected:
            known = " or ".join(f"({', '.join(signature)})" for signature in expected)
            raise PatchError(
                f"patch `{self.name}`: {name} takes ({', '.join(found)}) "
                f"where SGLang {', '.join(self.versions)} takes {known}"
            )

    def register(self) -> None:
        """Hand the hook to SGLang, which applies it once all plugins are loaded."""
        from sglang.srt.plugins.hook_registry import HookRegistry, HookType

        HookRegistry.register(self.target, self.hook, HookType(self.kind))

    def in_place(self) -> bool:
        """Whether a caller of the target runs the hook."""
        return self.hook in _hooks_around(self._resolve())

    def report(self) -> PatchReport:
        """Whether a caller of the target runs the hook, in this process, now."""
        if (reason := self.unneeded()) is not None:
            return self._report("inactive", reason)
        try:
            self.require_target()
        except PatchError as e:
            return self._report("moved", str(e))
        if not self.in_place():
            return self._report("missing", f"{self.target} runs without it")
        return self._report("applied")

    def _report(self, state: Literal["applied", "missing", "moved", "inactive"], detail: str = "") -> PatchReport:
        return PatchReport(name=self.name, target=self.target, state=state, detail=detail)

    def _resolve(self) -> Any:
        try:
            return pkgutil.resolve_name(self.target)
        except (ImportError, AttributeError) as e:
            raise PatchError(f"patch `{self.name}`: {self.target} is gone ({e})") from e


def _hooks_around(function: Any) -> list[object]:
    """The hooks that SGLang's registry wrapped around a function, outermost first: each wrapper closes over its own."""
    hooks: list[object] = []
    while function is not None:
        hooks += [cell.cell_contents for cell in getattr(function, "__closure__", None) or ()]
        function = getattr(function, "__wrapped__", None)
    return hooks
