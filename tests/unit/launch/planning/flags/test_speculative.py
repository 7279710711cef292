from collections.abc import Sequence

import pytest

from sun_sglang.launch.planning.flags.speculative import unaffected_by_cache

CACHE = "--disaggregation-decode-enable-radix-cache"


def test_algorithm_that_the_checks_refuse_beside_the_cache_alone_is_not_taken() -> None:
    def resolve(argv: Sequence[str]) -> None:
        if CACHE in argv and "NGRAM" in argv:
            raise ValueError("refused")

    assert unaffected_by_cache(["EAGLE", "NGRAM"], resolve) == ("EAGLE",)


@pytest.mark.parametrize("failure", [ValueError("no model here"), AttributeError("x"), SystemExit(2)])
def test_algorithm_that_fails_with_the_cache_as_without_is_taken(failure: BaseException) -> None:
    def resolve(argv: Sequence[str]) -> None:
        raise failure

    assert unaffected_by_cache(["EAGLE"], resolve) == ("EAGLE",)


def test_algorithm_for_which_the_cache_flag_is_unknown_is_not_taken() -> None:
    def resolve(argv: Sequence[str]) -> None:
        if CACHE in argv:
            raise SystemExit(2)

    assert unaffected_by_cache(["EAGLE"], resolve) == ()
