"""The training recipe: a YAML file with the model, the data and the optimisation of a tuning. Imports no torch.

`extends` names recipes to build on, so that a file holds only its own keys. A later recipe of the list overrides an
earlier one, and the file overrides all of them. A relative path is relative to the file that contains it; `~` and
`${VAR}` are expanded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from sun_sglang.contracts.scheme import SCHEMES, Scheme, SchemeName, Side
from sun_sglang.contracts.template_variables import RESERVED_VARIABLES
from sun_sglang.errors import RecipeError, UserError
from sun_sglang.files.local_path import STARTS, local_path

# the loader that refuses a key given twice, and the strict model, are the topology file's
from sun_sglang.strict import Strict, YamlError, first_invalid, parse_yaml

Rate = Annotated[float, Field(gt=0, le=1)]
_PATHS = ("file", "validation_file", "chat_template", "output")
_MODELS = ("base", "decoder")
_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)


class Data(Strict):
    """The source of the examples, and their columns.

    Without `messages` and `prompt` the columns of the first row determine the format: `messages`, ShareGPT's
    `conversations`, Alpaca's `instruction`, `input` and `output`, `prompt` and `completion`, `prompt` and `response`,
    `question` and `answer`, or `query` and `response`.

    Attributes:
        file: a local file, absolute once loaded: JSON lines, a JSON array, CSV, TSV or Parquet, plain or compressed by
            gzip, bzip2 or xz. Either this or `hub`.
        hub: a dataset of the Hugging Face Hub.
        config: the Hub dataset's configuration.
        split: the Hub dataset's split.
        limit: number of rows to use, from the first.
        messages: column of chat messages, OpenAI's or ShareGPT's. Without `response`, the last assistant message is
            the answer. An assistant message with `weight: 0` has no loss.
        prompt: column of the user's turn or of the messages before the answer, or a text with columns in braces, such
            as `{instruction}: {input}`; in a text with `{{`, `{{` and `}}` are braces.
        response: column of the answer, as a text or as messages, or a text with columns in braces.
        system: column of the system message, or its text, with columns in braces. A prompt whose first message is a
            system message keeps its own.
        tools: column of the tools, or a list of tools for all rows. Where the prompt is messages, the default is the
            column `tools`.
        turns: `all`: every assistant message is an example; `last`: only the last one is.
        max_length: most tokens of a prompt and its answer together; longer examples are left out and counted. The
            default is at most the model's positions.
        validation: share of the examples that is held out for the validation loss. The turns of a row stay together.
        validation_file: a file of the same columns for the validation loss, instead of that share.
    """

    file: str | None = None
    hub: str | None = None
    config: str | None = None
    split: str = "train"
    limit: int | None = Field(default=None, ge=1)
    messages: str | None = None
    prompt: str | None = None
    response: str | None = None
    system: str | None = None
    tools: str | tuple[dict[str, Any], ...] | None = None
    turns: Literal["last", "all"] = "last"
    max_length: int = Field(default=1024, ge=2)
    validation: float = Field(default=0.02, gt=0, lt=1)
    validation_file: str | None = None


class Lora(Strict):
    """LoRA on the tuned module, by PEFT.

    Attributes:
        rank: rank of the update.
        alpha: scale of the update, divided by the rank.
        dropout: dropout probability on the input of the update.
        targets: names of linear layers, or `all-linear`.
    """

    rank: int = Field(default=16, ge=1)
    alpha: float = Field(default=32, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    targets: Literal["all-linear"] | tuple[str, ...] = "all-linear"


class Recipe(Strict):
    """A whole recipe. The defaults are the SUN paper's (appendix A.1).

    Attributes:
        base: directory (absolute once loaded) or Hub id of the model that tuning starts from.
        decoder: the frozen decode module, where it is not the base; for a scheme that does not train the decode side.
            Its weights may be quantised (QSUN): compressed-tensors, `pack-quantized`.
        output: directory of the tuned checkpoint.
        scheme: name of the tuning scheme (`contracts/scheme.py`).
        first_token: the side that makes the first output token; `prefill` is what SGLang's workers do.
        data: examples.
        chat_template: a Jinja file, for a base whose tokenizer has none.
        chat_template_kwargs: variables for the chat template, such as `{enable_thinking: false}`. Requests to the task
            need the same ones.
        learning_rates: tried in turn, each from the base; the result with the least validation loss is kept.
        global_batch: examples in one optimizer step, over all processes.
        micro_batch: examples in one forward pass of a process, padded to the longest.
        epochs: passes over the examples.
        max_steps: most optimizer steps for one learning rate. Training ends with `epochs` or here, whichever is first.
        warmup: share of the steps in which the learning rate rises.
        weight_decay: weight decay of AdamW.
        betas: betas of AdamW.
        clip: largest norm of the gradient; 0 for no clipping.
        group_by_length: put examples of similar length into one batch. It saves padding. Where length follows
            difficulty and steps are few, the model gets worse.
        packing_tokens: put several examples into a row of at most this many tokens, without padding. A step still has
            `global_batch` examples, in rows of similar length; `micro_batch` then applies to the validation only.
        bf16: run the forward in bfloat16; the tuned weights stay in float32.
        gradient_checkpointing: run layers again in the backward pass instead of keeping their activations.
        lora: tune a LoRA adapter instead of all weights.
        save_steps: steps between two checkpoints to resume from; 0 for none.
        report_to: metrics to TensorBoard or Weights & Biases.
        seed: seed of the validation split and of the order of examples.
    """

    base: str = Field(min_length=1)
    decoder: str | None = None
    output: str = Field(min_length=1)
    scheme: SchemeName = "prefill_only"
    first_token: Side = "prefill"
    data: Data
    chat_template: str | None = None
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)
    learning_rates: tuple[Rate, ...] = Field(default=(2e-6, 5e-6, 1e-5, 2e-5, 5e-5), min_length=1)
    global_batch: int = Field(default=128, ge=1)
    micro_batch: int = Field(default=1, ge=1)
    epochs: float = Field(default=1.0, gt=0)
    max_steps: int | None = Field(default=None, ge=1)
    warmup: float = Field(default=0.1, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0)
    betas: tuple[float, float] = (0.9, 0.999)
    clip: float = Field(default=1.0, ge=0)
    group_by_length: bool = False
    packing_tokens: int | None = Field(default=None, ge=2)
    bf16: bool = False
    gradient_checkpointing: bool = False
    lora: Lora | None = None
    save_steps: int = Field(default=0, ge=0)
    report_to: tuple[Literal["tensorboard", "wandb"], ...] = ()
    seed: int = Field(default=0, ge=0)

    @property
    def tuning_scheme(self) -> Scheme:
        """The scheme as data, with the recipe's first token."""
        return SCHEMES[self.scheme].with_first_token(self.first_token)

    def accumulation(self, processes: int) -> int:
        """Return how many micro batches one process accumulates in a step. Packed rows have a number of their own.

        Raises:
            RecipeError: the global batch is not a multiple of the micro batch times the processes.
        """
        micro = 1 if self.packing_tokens else self.micro_batch
        together = micro * processes
        if self.global_batch % together:
            what = f"{processes} processes" if micro == 1 else f"micro_batch ({micro}) times {processes} processes"
            raise RecipeError(
                f"global_batch: {self.global_batch} is not a multiple of {what}; make it a multiple of {together}"
            )
        return self.global_batch // together


def load_recipe(path: Path) -> Recipe:
    """Return the recipe of a file, checked.

    Raises:
        RecipeError: a key or a file is wrong; the message starts with its YAML path.
    """
    raw = _read(path, ())
    try:
        recipe = Recipe.model_validate(raw)
    except ValidationError as e:
        field = first_invalid(e, Recipe, show_value=True, extra_keys=("extends",))
        raise RecipeError(f"{path}: {field.describe()}") from e
    _check(recipe)
    return recipe


def _read(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    """Return the content of a file merged with the recipes that it extends, with absolute paths."""
    path = path.resolve()
    if path in seen:
        raise RecipeError(f"{path}: extends: the recipes extend each other in a circle; remove one `extends`")
    try:
        raw = parse_yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as e:
        raise RecipeError(f"{path}: cannot be read ({e}); give the path of a recipe") from e
    except YamlError as e:
        raise RecipeError(e.describe(str(path))) from e
    if not isinstance(raw, dict):
        raise RecipeError(f"{path}: has no keys; start with `base:`, `output:` and `data:`")
    parents = raw.pop("extends", ())
    parents = [parents] if isinstance(parents, str) else parents
    if not isinstance(parents, list | tuple) or not all(isinstance(p, str) for p in parents):
        raise RecipeError(f"{path}: extends: is not a file or a list of files")
    merged: dict[str, Any] = {}
    for parent in parents:
        try:
            file = local_path(parent, path.parent)
        except UserError as e:
            raise RecipeError(f"{path}: extends: {e}") from e
        merged = _merge(merged, _read(file, (*seen, path)))
    return _merge(merged, _absolute(raw, path.parent))


def _merge(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(under)
    for key, value in over.items():
        mine = merged.get(key)
        merged[key] = _merge(mine, value) if isinstance(mine, Mapping) and isinstance(value, Mapping) else value
    return merged


def _absolute(raw: Mapping[str, Any], base: Path, where: str = "") -> dict[str, Any]:
    done: dict[str, Any] = {}
    for key, value in raw.items():
        if key == "data" and isinstance(value, Mapping):
            done[key] = _absolute(value, base, "data.")
        elif isinstance(value, str) and key in (*_PATHS, *_MODELS):
            if _URL.match(value):
                fix = "a directory or a Hub id" if key in _MODELS else "a path of this machine"
                hub = ", or name a dataset of the Hub in `data.hub`" if key == "file" else ""
                raise RecipeError(f"{where}{key}: {value} is a URL; give {fix}{hub}")
            try:
                path = local_path(value, base)
                local = key in _PATHS or value.startswith(STARTS) or path.exists()
            except (UserError, OSError) as e:
                raise RecipeError(f"{where}{key}: {e}") from e
            done[key] = str(path) if local else value
        else:
            done[key] = value
    return done


def _check(recipe: Recipe) -> None:
    data = recipe.data
    if (data.file is None) == (data.hub is None):
        raise RecipeError("data: needs either `file` (a local file) or `hub` (a dataset of the Hub)")
    if data.messages is not None and data.prompt is not None:
        raise RecipeError("data: needs either `messages` or `prompt`, the column of the question; remove one")
    if data.messages is None and data.prompt is None:
        for key in ("response", "system"):
            if getattr(data, key) is not None:
                raise RecipeError(f"data.{key}: is only beside `messages` or `prompt`; name that column, or remove it")
    if data.prompt is not None and data.response is None:
        raise RecipeError("data.response: is required beside `prompt`; name the column of the answer")
    if data.messages is not None and data.system is not None:
        raise RecipeError("data.system: is only for `prompt`, because chat messages contain their own; remove it")
    if data.turns == "all" and data.response is not None:
        raise RecipeError("data.turns: `all` is only for chat messages that contain their answers; remove it")
    reserved = sorted(recipe.chat_template_kwargs.keys() & set(RESERVED_VARIABLES))
    if reserved:
        raise RecipeError(f"chat_template_kwargs.{reserved[0]}: is set by training itself; remove it")
    scheme = recipe.tuning_scheme
    if recipe.decoder is not None and scheme.trains_decoder:
        raise RecipeError(f"decoder: `{recipe.scheme}` trains the decoder; remove `decoder`, or choose another scheme")
    if scheme.one_module and scheme.first_token == "decode":
        raise RecipeError(f"first_token: under `{recipe.scheme}` both sides are one module; remove it")
    if recipe.packing_tokens is not None and recipe.group_by_length:
        raise RecipeError("group_by_length: packed rows have no padding to save; remove it, or `packing_tokens`")
    if recipe.packing_tokens is not None and recipe.packing_tokens < data.max_length:
        raise RecipeError(
            f"packing_tokens: a row of {recipe.packing_tokens} tokens cannot hold an example of data.max_length "
            f"({data.max_length}); make it at least that"
        )
    if len(set(recipe.learning_rates)) != len(recipe.learning_rates):
        raise RecipeError("learning_rates: a rate is given twice; remove one")
