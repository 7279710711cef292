"""Four agents over one growing context: each is a task, and one prefill worker computes the context for all of them.

    sun launch examples/agents.yaml --detach
    python examples/agents.py
    sun stop examples/agents.yaml

It needs the package `openai` alone. For each call it prints the tokens of the prompt, and the share of them that was in
the prefill worker's cache: from the second call on, all but the last agent's answer and this one's instruction.
"""

from __future__ import annotations

import argparse
import os
import sys
import uuid
from collections.abc import Iterator
from typing import Any, NamedTuple

from openai import APIConnectionError, OpenAI, OpenAIError

# the models of the agents are the tasks of the topology
AGENTS = {
    "planner": "You are the planner. Write the steps that are left, one a line.",
    "coder": "You are the coder. Write the code of the next step.",
    "reviewer": "You are the reviewer. Name the mistakes of the code above.",
    "summariser": "You are the summariser. State in two sentences what was done and what is left.",
}
RULES = "Four agents work on one task and read one conversation. Answer briefly, and only in your own role."
TASK = "Write a function that merges overlapping intervals, with its tests."


class Call(NamedTuple):
    """One call of an agent: the tokens of its prompt, and those of them that a cache held."""

    turn: int
    agent: str
    prompt_tokens: int
    cached_tokens: int

    def __str__(self) -> str:
        share = self.cached_tokens / self.prompt_tokens
        return f"turn {self.turn}  {self.agent:<10}  {self.prompt_tokens:>6} prompt tokens, {share:4.0%} from the cache"


def run(client: OpenAI, turns: int, max_tokens: int) -> Iterator[Call]:
    """Call every agent once in each turn, and yield what each call cost.

    The context only grows: an agent's instruction and its answer stay in it. So each prompt begins with the whole
    prompt of the call before, also where another agent made that call.
    """
    messages: list[Any] = [{"role": "system", "content": RULES}, {"role": "user", "content": TASK}]
    for turn in range(1, turns + 1):
        for agent, instruction in AGENTS.items():
            messages.append({"role": "user", "content": instruction})
            reply = client.chat.completions.create(model=agent, messages=messages, max_tokens=max_tokens, temperature=0)
            if not getattr(reply, "choices", None) or reply.choices[0].message is None:
                raise OpenAIError("the answer is none of a chat; is this the URL of a router, with /v1?")
            messages.append({"role": "assistant", "content": reply.choices[0].message.content or ""})
            usage = reply.usage
            if usage is None or not usage.prompt_tokens:
                raise OpenAIError("the answer states no usage; is this the URL of a router, with /v1?")
            details = usage.prompt_tokens_details
            yield Call(turn, agent, usage.prompt_tokens, (details.cached_tokens or 0) if details else 0)


def client_of(url: str, session: str) -> OpenAI:
    """Return a client whose requests name their conversation.

    All conversations of this program begin with the same rules. Without the header the router would take them for one,
    and send them to one prefill worker for as long as it keeps up.
    """
    key = os.environ.get("OPENAI_API_KEY", "none")
    # a call that the client sends twice would find its own prompt
    return OpenAI(base_url=url, api_key=key, max_retries=0, default_headers={"X-Sun-Session": session})


def main() -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(description="Four agents over one growing context.")
    parser.add_argument("url", nargs="?", default="http://127.0.0.1:8000/v1", help="of the router (%(default)s)")
    parser.add_argument("--turns", type=int, default=3, help="turns of all agents (%(default)s)")
    parser.add_argument("--max-tokens", type=int, default=64, help="most tokens of an answer (%(default)s)")
    options = parser.parse_args()
    if options.turns < 1:
        parser.error("--turns: at least 1")
    try:
        with client_of(options.url, uuid.uuid4().hex) as client:
            for call in run(client, options.turns, options.max_tokens):
                print(call, flush=True)
    except APIConnectionError:
        print(f"nothing answers at {options.url}; start it: sun launch examples/agents.yaml --detach", file=sys.stderr)
        return 1
    except OpenAIError as e:
        print(f"{options.url}: {e}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
