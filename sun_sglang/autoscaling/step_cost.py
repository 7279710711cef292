"""The seconds of a decode step of one worker: from a cost model, corrected or learned from measured steps. Pure."""

from __future__ import annotations

import math
from collections import deque
from typing import NamedTuple

from sun_sglang.sim.cost_model import CostModel

# a correction outside this range is a worker that does something else: it compiles kernels, or its machine is shared
_CORRECTION = (0.25, 4.0)
# weight of one measured window against those before it
_NEWEST = 0.2
# measured windows that a fit keeps
_WINDOWS = 512
# a slope is known once the contexts of windows differ by this factor
_LEVERAGE = 2.0
_MIN_WINDOWS = 8


class StepCost(NamedTuple):
    """Linear cost of a decode step, in seconds.

    Attributes:
        base: of an empty batch: the weights are read once.
        per_request: added for each request in the batch.
        per_context_token: added for each token of context in the batch.
        kv_tokens: tokens of KV that fit on one worker; infinite where that is not known.
    """

    base: float
    per_request: float
    per_context_token: float
    kv_tokens: float = math.inf

    def seconds(self, requests: float, context: float) -> float:
        """Return the seconds of a step of so many requests with so much context in all."""
        return self.base + self.per_request * requests + self.per_context_token * context

    def times(self, factor: float) -> StepCost:
        """Return the cost of a worker whose steps take `factor` times as long."""
        return self._replace(
            base=factor * self.base,
            per_request=factor * self.per_request,
            per_context_token=factor * self.per_context_token,
        )


class MeasuredSteps(NamedTuple):
    """Decode steps that one worker measured in a window of time.

    Attributes:
        seconds: mean duration of a step.
        requests: mean number of requests in the batch.
        context: mean context of the batch, in tokens.
    """

    seconds: float
    requests: float
    context: float


def step_cost(costs: CostModel) -> StepCost:
    """Return the step cost of a cost model."""
    return StepCost(costs.decode_step, costs.decode_per_request, costs.decode_per_context_token, costs.kv_tokens)


class CorrectedCost:
    """A cost model times one factor, which follows the steps that workers measure.

    Args:
        prior: the cost model's step cost.
    """

    def __init__(self, prior: StepCost) -> None:
        self._prior = prior
        self._factor = 1.0

    @property
    def current(self) -> StepCost:
        """The step cost now."""
        return self._prior.times(self._factor)

    def note(self, steps: MeasuredSteps) -> None:
        """Compare measured steps with the model."""
        expected = self._prior.seconds(steps.requests, steps.context)
        if expected <= 0 or steps.seconds <= 0:
            return
        low, high = _CORRECTION
        measured = min(high, max(low, steps.seconds / expected))
        # of a ratio the mean that treats twice and half alike is the geometric one
        self._factor *= (measured / self._factor) ** _NEWEST


class LearnedCost:
    """A step cost from measured steps alone: least squares over context, with no negative term.

    A request's own cost cannot be told from that of its context while all requests are alike, so it stays 0 and is part
    of the context's.

    Args:
        kv_tokens: tokens of KV that fit on one worker.
    """

    def __init__(self, kv_tokens: float = math.inf) -> None:
        self._kv_tokens = kv_tokens
        self._windows: deque[MeasuredSteps] = deque(maxlen=_WINDOWS)

    @property
    def current(self) -> StepCost | None:
        """The step cost now; None while the measured contexts are too few or too alike to tell base from slope."""
        windows = [w for w in self._windows if w.context > 0]
        if len(windows) < _MIN_WINDOWS:
            return None
        contexts = sorted(w.context for w in windows)
        low, high = contexts[len(contexts) // 10], contexts[-1 - len(contexts) // 10]
        if high < _LEVERAGE * low:
            return None
        count = len(windows)
        mean_x, mean_y = sum(contexts) / count, sum(w.seconds for w in windows) / count
        spread = sum((w.context - mean_x) ** 2 for w in windows)
        slope = sum((w.context - mean_x) * (w.seconds - mean_y) for w in windows) / spread
        slope = max(0.0, slope)
        base = mean_y - slope * mean_x
        if base < 0:
            # through the origin
            slope, base = sum(w.context * w.seconds for w in windows) / sum(w.context**2 for w in windows), 0.0
        return StepCost(base, 0.0, slope, self._kv_tokens)

    def note(self, steps: MeasuredSteps) -> None:
        """Add measured steps."""
        if steps.seconds > 0:
            self._windows.append(steps)
