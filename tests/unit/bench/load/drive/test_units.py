from __future__ import annotations

from array import array

from sun_sglang.bench.load.client.endpoint import Prepared, prepare
from sun_sglang.bench.load.client.record import Failure, RequestRecord
from sun_sglang.bench.load.drive.units import session_units
from sun_sglang.bench.load.workload.agents.session import Session
from sun_sglang.bench.load.workload.agents.workflow import Workflow
from sun_sglang.bench.load.workload.prompts.random_tokens import RandomTokens

FLOW = Workflow(agents=2, turns=2, initial_tokens=4, appended_tokens=3, output_tokens=2)
SESSION = Session(5, None, ("plan", "code"), FLOW, RandomTokens(0, 64, 250))


class Answers:
    """Answers each call with the ids that a test gives for it; None: the server reports no ids."""

    def __init__(self, *answers: list[int] | None, failing: int | None = None) -> None:
        self.prompts: list[tuple[int, ...]] = []
        self._answers = answers
        self._failing = failing

    async def send(self, prepared: Prepared) -> RequestRecord:
        request, call = prepared.request, len(self.prompts)
        assert isinstance(request.prompt, tuple)
        self.prompts.append(request.prompt)
        record = RequestRecord(request.index, request.task, request.output_tokens, None, 0.0, ended=1.0)
        answer = self._answers[call]
        record.answer = None if answer is None else array("i", answer)
        record.failure = Failure("http_503", "full") if call == self._failing else None
        return record


async def run(answers: Answers) -> bool:
    (unit,) = session_units([SESSION], prepare, answers.send)
    return await unit.run()


async def test_session_next_prompt_is_the_last_one_with_the_answer_and_what_is_appended() -> None:
    answers = Answers([901, 902], [903, 904], [905, 906], [907, 908])
    assert await run(answers)
    first, second, third, fourth = answers.prompts
    assert second[:6] == (*first, 901, 902)
    assert third[:11] == (*second, 903, 904)
    assert fourth[:16] == (*third, 905, 906)
    assert [len(prompt) for prompt in answers.prompts] == [FLOW.input_tokens(call) for call in range(4)]


async def test_session_without_ids_continues_with_stand_ins_of_the_same_length() -> None:
    answers = Answers([901, 902], None, [903], [0, 0])
    assert await run(answers)
    planned = [SESSION.request(call, [(901, 902)]).prompt for call in range(4)]
    assert answers.prompts == planned


async def test_session_that_fails_sends_nothing_more() -> None:
    answers = Answers([901, 902], [903, 904], failing=1)
    assert not await run(answers)
    assert len(answers.prompts) == 2
