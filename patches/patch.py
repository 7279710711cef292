"""One hook on SGLang, and the check that it is applied.

SGLang's plugin loader logs a hook that fails and goes on (`sglang/srt/plugins/hook_registry.py`), so a worker could
serve without the hook. Each patch is checked before it is registered (the target exists and has the expected
parameters), and afterwards (a caller of the target runs the hook).
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


def always_active() -> None:
    """Return None: every process needs the patch."""


@dataclass(frozen=True)
class Patch:
    """One hook on one target.

    Attributes:
        name: name of the file, with a suffix where the file has several hooks.
        target: dotted path of the function or method.
        parameters: names of the target's parameters in order, on the versions where the hook applies; one tuple for
            each signature.
        kind: as in `sglang.srt.plugins.hook_registry.HookType`, or `register` for an object that is offered by name.
        hook: the function that SGLang calls.
        why: the problem without the hook.
        versions: what the hook does on each supported SGLang version.
        removable_when: the condition under which the file can be removed.
        inactive_reason: returns the reason why this process does not need the hook; None if it needs it.
    """

    name: str
    target: str
    parameters: tuple[Signature, ...]
    kind: HookKind
    hook: Callable[..., Any]
    why: str
    versions: Mapping[str, str]
    removable_when: str
    inactive_reason: Callable[[], str | None] = always_active

    def require_target(self) -> None:
        """Raise unless the target exists and has the expected parameters.

        Raises:
            PatchError: names the patch, the target and the difference.
        """
        self.require_parameters(self._resolve(), self.target, self.parameters)

    def require_parameters(self, function: Any, name: str, expected: Sequence[Signature]) -> None:
        """Raise unless a function has the expected parameters.

        Args:
            function: the function; None if it does not exist.
            name: its name for the message.
            expected: names of its parameters in order; one tuple for each accepted signature.

        Raises:
            PatchError: names the patch, the function and the difference.
        """
        if function is None:
            raise PatchError(f"patch `{self.name}`: {name} is gone")
        # the function of a classmethod has one signature before and after it is wrapped
        plain = inspect.unwrap(getattr(function, "__func__", function))
        found = tuple(inspect.signature(plain).parameters)
        if found not in expected:
            known = " or ".join(f"({', '.join(signature)})" for signature in expected)
            raise PatchError(
                f"patch `{self.name}`: {name} takes ({', '.join(found)}) "
                f"where SGLang {', '.join(self.versions)} takes {known}"
            )

    def register(self) -> None:
        """Register the hook at SGLang, which applies it once all plugins are loaded."""
        from sglang.srt.plugins.hook_registry import HookRegistry, HookType

        HookRegistry.register(self.target, self.hook, HookType(self.kind))

    def is_applied(self) -> bool:
        """Return whether a caller of the target runs the hook."""
        return self.hook in _hooks_around(self._resolve())

    def report(self) -> PatchReport:
        """Return the state of the hook in this process now."""
        if (reason := self.inactive_reason()) is not None:
            return self._report("inactive", reason)
        try:
            self.require_target()
        except PatchError as e:
            return self._report("moved", str(e))
        if not self.is_applied():
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
    """Return the hooks around a function, outermost first: each wrapper of SGLang's registry closes over its hook."""
    hooks: list[object] = []
    while function is not None:
        hooks += [cell.cell_contents for cell in getattr(function, "__closure__", None) or ()]
        function = getattr(function, "__wrapped__", None)
    return hooks
