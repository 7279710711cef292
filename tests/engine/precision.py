"""The dtype in which the tests' models are served, and how close two logits count as tied in it."""

from __future__ import annotations

from dataclasses import dataclass

from sun_sglang.cpu import has_gpu


@dataclass(frozen=True)
class Precision:
    """How exact a machine serves the tests' models.

    Attributes:
        dtype: value of SGLang's `dtype`.
        tie: two logits that differ by less are tied, and a log probability is right to this.
        tied_share: most answers that may hang on a tie, of all.
    """

    dtype: str
    tie: float
    tied_share: float


# Logits of the random models are tens apart in all; sums in float32 differ in the sixth digit.
FLOAT32 = Precision("float32", tie=1e-3, tied_share=0.02)
# Attention kernels on GPUs take no float32; of the two that they take this one rounds less. Measured with transformers
# on a CPU, 240 answers of 32 tokens in float16 beside float32 on the same weights: logits differ by up to 0.042, and
# 30 answers differ, each first where the reference's margin is below 0.03.
FLOAT16 = Precision("float16", tie=0.06, tied_share=0.25)


def precision_of(gpu: bool) -> Precision:
    """Return the most exact precision that a machine with or without a GPU serves in."""
    return FLOAT16 if gpu else FLOAT32


PRECISION = precision_of(has_gpu())

# The decode worker of `four-bit` multiplies in bfloat16, between float32 operations. Measured with transformers and the
# same kernel on 40 answers of 24 tokens: logits differ by 0.04 on average and by up to 0.83, and 20 answers differ.
FOUR_BIT = Precision(PRECISION.dtype, tie=1.0, tied_share=0.75)
# mean difference of the log probabilities of answers: 0.03 was measured, and 1.4 for the weights in full precision
FOUR_BIT_MEAN = 0.1
