"""`sun eval --served` with lm-eval against a server that returns the right answers, or refuses."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from sun_sglang.bench.smollm2.english.scorers import SCORERS
from sun_sglang.cli.main import main
from tests.support.ports import PORTS

QUESTIONS = {f"what is {i} + {i}?": str(2 * i) for i in range(8)}
ROOT = Path(__file__).parents[4]
KEY = "3f9c0e7d1b5a4c62"
Sun = Callable[..., tuple[int, str, str]]


class Server(ThreadingHTTPServer):
    """Answers as `/v1/models` and `/v1/chat/completions` do; keeps the requests."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[dict[str, Any]] = []
        self.wrong = {"what is 3 + 3?"}
        self.refused: set[str] = set()
        self.key: str | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self._reply(200, {"data": [{"id": "math"}, {"id": "tool"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(body)
        question = body["messages"][-1]["content"]
        if question in self.server.refused:
            self._reply(400, {"error": {"message": "the prompt has 9000 tokens"}})
            return
        answer = "no idea" if question in self.server.wrong else QUESTIONS[question]
        self._reply(200, {"choices": [{"index": 0, "message": {"content": answer}}]})

    def _reply(self, status: int, body: dict[str, Any]) -> None:
        if self.server.key and self.headers["Authorization"] != f"Bearer {self.server.key}":
            status, body = 401, {"error": {"message": "send a valid key"}}
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        # a client that met a refusal hangs up on its other requests
        with suppress(ConnectionError):
            self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def sun(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Sun:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)

    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stopped:
            main(["eval", *arguments])
        out, err = capsys.readouterr()
        return int(stopped.value.code or 0), out, err

    return run


@pytest.fixture
def benchmark(tmp_path: Path) -> Path:
    """Write a local benchmark of lm-eval: sums."""
    lines = (json.dumps({"question": question, "answer": answer}) for question, answer in QUESTIONS.items())
    (tmp_path / "sums.jsonl").write_text("\n".join(lines))
    return write(tmp_path / "sums.yaml", tmp_path / "sums.jsonl")


def write(file: Path, data: Path, **other: Any) -> Path:
    config = {
        "task": "sums",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}, "cache_dir": str(file.parent / "cache")},
        "output_type": "generate_until",
        "test_split": "test",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": ["\n"], "temperature": 0.7, "do_sample": True},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": 2.0},
    }
    file.write_text(yaml.safe_dump(config | other))
    return file


def test_answers_are_scored_and_reported(server: Server, sun: Sun, benchmark: Path, tmp_path: Path) -> None:
    out, answers = tmp_path / "new" / "report.json", tmp_path / "answers.jsonl"
    files = ["--out", str(out), "--answers", str(answers)]
    code, shown, err = sun(f"math={benchmark}", "--served", server.url, *files, "--json")
    assert code == 0, err
    report = json.loads(shown)
    assert report == json.loads(out.read_text())
    (result,) = report["results"]
    (score,) = result["scores"]
    assert (result["task"], result["benchmark"], result["version"]) == ("math", "sums", "2.0")
    assert (result["questions"], result["few_shot"]) == (8, 0)
    assert (score["metric"], score["correct"], score["value"]) == ("exact_match", 7, 7 / 8)
    assert score["low"] < 7 / 8 < score["high"] < 1
    assert {"sun-sglang", "python", "lm-eval"} <= report["versions"].keys()
    samples = [json.loads(line) for line in answers.read_text().splitlines()]
    assert {s["doc"]["question"]: s["resps"][0][0] for s in samples} == QUESTIONS | {"what is 3 + 3?": "no idea"}


@pytest.mark.parametrize("task", SCORERS)
def test_english_benchmark_sends_the_prompts_of_training_and_scores_answers(
    server: Server, sun: Sun, monkeypatch: pytest.MonkeyPatch, task: str
) -> None:
    lines = (ROOT / f"configs/english/data/{task}.test.jsonl").read_text(encoding="utf-8").splitlines()[:8]
    rows = [json.loads(line) for line in lines]
    for row in rows:
        monkeypatch.setitem(QUESTIONS, row["messages"][-1]["content"], row["answer"])
    server.wrong = {rows[3]["messages"][-1]["content"]}
    file = ROOT / f"configs/eval/english_{task}.yaml"
    code, shown, err = sun(f"tool={file}", "--served", server.url, "--limit", "8", "--json")
    assert code == 0, err
    asked = [body["messages"] for body in server.asked]
    assert sorted(asked, key=str) == sorted((row["messages"] for row in rows), key=str)
    (score,) = json.loads(shown)["results"][0]["scores"]
    assert (score["metric"], score["correct"], score["interval"]) == ("right", 7, "wilson")


def test_it_asks_the_task_greedily_whatever_the_file_says(server: Server, sun: Sun, benchmark: Path) -> None:
    assert sun(f"tool={benchmark}", "--served", f"{server.url}/v1/", "--max-tokens", "7")[0] == 0
    assert len(server.asked) == len(QUESTIONS)
    assert {(b["model"], b["temperature"], b["max_tokens"], str(b["stop"])) for b in server.asked} == {
        ("tool", 0.0, 7, "['\\n']")
    }


def test_a_limit_asks_the_first_questions(server: Server, sun: Sun, benchmark: Path) -> None:
    code, out, _ = sun(f"math={benchmark}", "--served", server.url, "--limit", "3")
    assert code == 0
    assert "3 of 3" in out
    assert "100.0 %" in out


def test_the_key_of_the_environment_is_sent(
    server: Server, sun: Sun, benchmark: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.key = KEY
    code, _, err = sun(f"math={benchmark}", "--served", server.url)
    assert code == 1
    assert err == f"error: {server.url}/v1/models answers 401; set OPENAI_API_KEY to a key of this router\n"
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    assert sun(f"math={benchmark}", "--served", server.url)[0] == 0


@pytest.mark.parametrize("concurrency", ["1", "32"])
def test_a_refused_request_is_one_error_and_no_score(
    server: Server, sun: Sun, benchmark: Path, tmp_path: Path, concurrency: str
) -> None:
    server.refused = set(QUESTIONS)
    report = tmp_path / "report.json"
    arguments = ["--served", server.url, "--concurrency", concurrency, "--out", str(report)]
    code, out, err = sun(f"math={benchmark}", *arguments)
    assert (code, out) == (1, "")
    assert err.count("error:") == 1
    assert "the prompt has 9000 tokens" in err
    assert "Traceback" not in err
    assert not report.exists()
    # no request is repeated without a message to the user
    questions = [body["messages"][-1]["content"] for body in server.asked]
    assert len(questions) == len(set(questions))


def test_what_does_not_answer_is_named(sun: Sun, benchmark: Path) -> None:
    port = next(PORTS)
    code, _, err = sun(f"math={benchmark}", "--served", f"http://127.0.0.1:{port}")
    assert code == 1
    assert f"no OpenAI API answers at http://127.0.0.1:{port}/v1/models" in err


def test_a_task_that_is_not_served_is_named(server: Server, sun: Sun, benchmark: Path) -> None:
    code, _, err = sun(f"code={benchmark}", "--served", server.url)
    assert code == 1
    assert "serves no model `code`; it serves math, tool" in err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"output_type": "loglikelihood"}, "compares likelihoods"),
        ({"gen_prefix": "The answer is"}, "add --prompt template"),
        ({"dataset_kwargs": {"data_files": {"test": "none.jsonl"}}}, "lm-eval cannot load it"),
    ],
)
def test_a_benchmark_that_cannot_be_asked_is_one_error(
    server: Server, sun: Sun, benchmark: Path, change: dict[str, Any], said: str
) -> None:
    write(benchmark, benchmark.with_suffix(".jsonl"), **change)
    code, _, err = sun(f"math={benchmark}", "--served", server.url)
    assert code == 1
    assert said in err
    assert err.count("error:") == 1
    assert not server.asked


@pytest.mark.parametrize(("options", "shown"), [([], 2), (["--few-shot", "3"], 3), (["--few-shot", "0"], 0)])
def test_solved_questions_are_turns_before_the_question(
    server: Server, sun: Sun, benchmark: Path, options: list[str], shown: int
) -> None:
    write(benchmark, benchmark.with_suffix(".jsonl"), num_fewshot=2, fewshot_split="test")
    code, out, err = sun(f"math={benchmark}", "--served", server.url, "--json", *options)
    assert code == 0, err
    assert json.loads(out)["results"][0]["few_shot"] == shown
    for body in server.asked:
        *solved, last = body["messages"]
        assert last["role"] == "user"
        assert len(solved) == 2 * shown
        pairs = zip(solved[::2], solved[1::2], strict=True)
        assert all(QUESTIONS[asked["content"]] == answer["content"].strip() for asked, answer in pairs)


def test_solved_questions_are_refused_where_there_are_none(server: Server, sun: Sun, benchmark: Path) -> None:
    write(benchmark, benchmark.with_suffix(".jsonl"), num_fewshot=0)
    code, _, err = sun(f"math={benchmark}", "--served", server.url, "--few-shot", "2")
    assert code == 1
    assert "remove --few-shot" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["math=none.yaml"], "none.yaml: not found"),
        (["math=sums", "--include-path", "none"], "--include-path none: is not a directory"),
        (["math=sums.yaml", "--prompt", "template"], "tokenizer of `math` is unknown"),
        (["math=evalplus:humaneval", "--limit", "3"], "EvalPlus and BFCL always ask all"),
    ],
)
def test_what_cannot_be_is_refused_before_a_question(
    server: Server, sun: Sun, benchmark: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    monkeypatch.chdir(benchmark.parent)
    code, _, err = sun(*arguments, "--served", server.url)
    assert code == 1
    assert said in err
    assert not server.asked


@pytest.mark.parametrize(
    "arguments",
    [
        ["math=sums.yaml"],
        ["sums.jsonl", "--prefill", "a"],
        ["math=a.yaml", "--served", "http://x", "--prefill", "a"],
        ["math=a.yaml", "--served", "http://x", "--prompt", "chat"],
    ],
)
def test_options_of_both_halves_do_not_mix(sun: Sun, arguments: list[str]) -> None:
    assert sun(*arguments)[0] == 2
