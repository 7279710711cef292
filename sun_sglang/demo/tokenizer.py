"""The demo's tokenizer, with one token for each byte so that it encodes every prompt, and its chat template.

A conversation grows only at its end: the prompt of a turn, its answer and `<|end|>` are a token prefix of the next
turn's prompt. A prefix cache needs this.
"""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

END = "<|end|>"
PAD = "<|pad|>"
ROLES = ("system", "user", "assistant", "tool")
VOCAB_SIZE = 320
CONTEXT_LENGTH = 2048

# `tools` is accepted and not rendered: these models learnt their tools in training. Tool calls in the history are
# rendered as the models write them (SGLang's `--tool-call-parser llama3` parses them), so that the prefix stays the
# same.
CHAT_TEMPLATE = """\
{%- for message in messages -%}
{%- set role = 'system' if message.role == 'developer' else message.role -%}
{%- if role not in ['system', 'user', 'assistant', 'tool'] -%}
{{- raise_exception('unknown role `' ~ role ~ '`; use system, developer, user, assistant or tool') -}}
{%- endif -%}
{{- '<|' ~ role ~ '|>' -}}
{%- if message.content is string -%}
{{- message.content -}}
{%- elif message.content -%}
{%- for part in message.content -%}{{- part.text -}}{%- endfor -%}
{%- endif -%}
{%- for call in message.tool_calls or [] -%}
{%- set arguments = call.function.arguments -%}
{{- '{"name": ' ~ (call.function.name | tojson) ~ ', "arguments": ' -}}
{{- arguments if arguments is string else (arguments | tojson) -}}
{{- '}' -}}
{%- endfor -%}
{{- '<|end|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}
"""


def byte_level_bpe(vocabulary: Sequence[str], special: Sequence[str]) -> Tokenizer:
    """Return a tokenizer without merges, one token for each byte.

    Args:
        vocabulary: the tokens in the order of their ids, the byte-level alphabet among them.
        special: special tokens; those outside `vocabulary` get the next ids.
    """
    tokenizer = Tokenizer(BPE({token: i for i, token in enumerate(vocabulary)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(special))
    return tokenizer


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Return the tokenizer: 256 bytes, end of turn, padding, four roles, and reserved tokens up to `VOCAB_SIZE`.

    Its `encode` adds no tokens, and its `decode` restores every text.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    named = [END, PAD, *(f"<|{role}|>" for role in ROLES)]
    reserved = [f"<|reserved_{i}|>" for i in range(VOCAB_SIZE - len(alphabet) - len(named))]
    return PreTrainedTokenizerFast(
        tokenizer_object=byte_level_bpe(alphabet, named + reserved),
        eos_token=END,
        pad_token=PAD,
        chat_template=CHAT_TEMPLATE,
        model_max_length=CONTEXT_LENGTH,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
