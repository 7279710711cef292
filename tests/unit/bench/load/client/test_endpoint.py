from __future__ import annotations

import orjson
import pytest

from sun_sglang.bench.load.client.endpoint import Endpoint, base_url, prepare
from sun_sglang.bench.load.errors import BenchError
from sun_sglang.bench.load.workload.planned import PlannedRequest


@pytest.mark.parametrize("url", ["http://h:1", "http://h:1/", "http://h:1/v1", "http://h:1/v1/"])
def test_base_url_with_or_without_version_is_the_same(url: str) -> None:
    assert base_url(url) == "http://h:1"


def test_base_url_with_a_path_keeps_it() -> None:
    assert base_url("https://h/gateway/v1") == "https://h/gateway"


@pytest.mark.parametrize(
    "url",
    ["", "h:1", "ftp://h", "http://", "http://h:99999", "http://h:0", "http://u:secret@h", "http://h\n", "http://h?x"],
)
def test_base_url_of_no_server_is_refused(url: str) -> None:
    with pytest.raises(BenchError, match=r"--url: .*http://HOST:PORT"):
        base_url(url)


def test_endpoint_text_shows_no_key() -> None:
    assert "secret" not in repr(Endpoint("http://h", {"Authorization": "Bearer secret"}))


def test_prepared_request_has_the_name_and_the_fields_of_its_route() -> None:
    request = PlannedRequest(0, "math", None, (1, 2), 3)
    assert orjson.loads(prepare(request).body)["model"] == "math"
    body = orjson.loads(prepare(request, "base", {"lora_path": "math"}).body)
    assert (body["model"], body["lora_path"]) == ("base", "math")


def test_prepared_call_of_a_session_asks_for_the_ids_of_its_answer() -> None:
    call = prepare(PlannedRequest(12, "math", None, (1, 2), 3, session=4))
    assert orjson.loads(call.body)["return_token_ids"] is True
    alone = prepare(PlannedRequest(12, "math", None, (1, 2), 3))
    assert "return_token_ids" not in orjson.loads(alone.body)
