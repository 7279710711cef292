"""Every figure."""

from __future__ import annotations

from sun_sglang.bench.figures.accuracy_table import AccuracyTable
from sun_sglang.bench.figures.figure import Figure
from sun_sglang.bench.figures.four_bit_table import FourBitTable
from sun_sglang.bench.figures.quantized_table import DEMO
from sun_sglang.bench.figures.serving.adapters import AdaptersFigure, AdaptersTable
from sun_sglang.bench.figures.serving.bars import ServingBars
from sun_sglang.bench.figures.serving.points_table import PointsTable
from sun_sglang.bench.figures.serving.prefillshare_figures import HitsOverSessions, LatencyOverRate
from sun_sglang.bench.figures.serving.sun_figures import DecodeConsolidation, Skew
from sun_sglang.bench.figures.sharing import SharingFigure
from sun_sglang.bench.figures.step_cost_table import StepCostTable

FIGURES: tuple[Figure, ...] = (
    AccuracyTable(),
    SharingFigure(),
    StepCostTable(),
    DEMO,
    FourBitTable(),
    ServingBars(),
    PointsTable(),
    DecodeConsolidation(),
    Skew(),
    LatencyOverRate(),
    HitsOverSessions(),
    AdaptersFigure(),
    AdaptersTable(),
)
