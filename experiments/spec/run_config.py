"""The typed configuration of a run: its sections, and which values each setting accepts."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator

LARGEST = 2**32 - 1  # the largest integer of any setting; a larger one overflows in torch or numpy
LARGEST_FLOAT = 3.4e38  # the largest other number of any setting; a larger one overflows in float32


BENCHMARK = r"[^\s:,\[\]]+(:[^\s:,\[\]]+){0,2}"  # a task of lm-eval, perhaps with a metric and a filter


def benchmark_names(names: list[str]) -> list[str]:
    """Names of benchmarks, unchanged.

    Raises:
        ValueError: A name has another form than `BENCHMARK`, or occurs twice.
    """
    if len(set(names)) < len(names) or not all(re.fullmatch(BENCHMARK, name) for name in names):
        raise ValueError("names repeat, or have another form")
    return names


def _different_names(value: Any) -> Any:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise ValueError("neither a text nor a list of texts")
    if not names or len(set(names)) < len(names):
        raise ValueError("names repeat, or are empty")
    return value


NO_CACHE = Path(os.devnull) / "the home folder is not known, set MORA_CACHE"
PATH = "a path; a ~ is not replaced here, so write $HOME in its place, and ${ is not allowed"


def path_text(path: str) -> str:
    """A path of a user, unchanged.

    Raises:
        ValueError: The path is blank, or begins with a ~ that no shell has replaced, or holds the ${ with which Hydra
            refers to another setting.
    """
    if not path.strip() or path.startswith("~") or "${" in path:
        raise ValueError(f"must be {PATH}, got {path!r}")
    return path


def _unless_blank(path: Any) -> Any:
    """A path, or None in place of a blank text: `MORA_CACHE=` names no folder."""
    return None if isinstance(path, str) and not path.strip() else path


# The description completes the sentence "<setting> must be ...".
PositiveInt = Annotated[int, Field(gt=0, le=LARGEST, description="a positive integer")]
Count = Annotated[int, Field(ge=0, le=LARGEST, description="an integer of at least 0")]
Length = Annotated[int, Field(ge=2, le=LARGEST, description="an integer of at least 2 (no loss counts on the first)")]
Seed = Annotated[int, Field(ge=0, le=LARGEST, description=f"an integer from 0 to {LARGEST}")]
Threads = Annotated[int, Field(gt=0, le=1024, description="an integer from 1 to 1024")]
# NaN is below and above nothing, and infinity is above the largest number, so neither is allowed.
Positive = Annotated[float, Field(gt=0, le=LARGEST_FLOAT, description="a positive number of at most 3.4e38")]
NotNegative = Annotated[float, Field(ge=0, le=LARGEST_FLOAT, description="a number from 0 to 3.4e38")]
Fraction = Annotated[float, Field(ge=0, lt=1, description="a number in [0, 1)")]
Share = Annotated[float, Field(gt=0, le=1, description="a number in (0, 1]")]
Part = Annotated[float, Field(gt=0, lt=1, description="a number in (0, 1)")]
Text = Annotated[str, Field(min_length=1, description="a text")]
PathText = Annotated[str, AfterValidator(path_text), Field(description=PATH)]
Switch = Annotated[bool, Field(description="true or false")]
# One validator for the list and for the text: an error of a union of types would not name the setting alone.
Targets = Annotated[
    list[str] | str,
    PlainValidator(_different_names),
    Field(description="a list of different names, such as [q_proj, v_proj], all-linear, or a regular expression"),
]
Benchmarks = Annotated[
    list[str],
    AfterValidator(benchmark_names),
    Field(description="a list of different tasks of lm-eval, such as [gsm8k, arc_easy:acc_norm]"),
]


class Section(BaseModel):
    """Settings that cannot be changed. A setting that is None is not in this section, or stands for the default."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    def replace(self, **changes: Any) -> Self:
        """A copy with other values, which are not checked again."""
        return self.model_copy(update=changes)


class Method(Section):
    """How the model is adapted, as `conf/method/<name>.yaml` says.

    A method's file may hold settings beside these, such as `operator`. They have an effect only where the file uses
    them, mostly in `peft`; `allowed` says which values they accept.

    Attributes:
        module: The Python file of a user that registers the adapter with PEFT; None for an adapter of PEFT or of this
            project.
        label: The name in tables and figures.
        looks: Rank of the paper, or `any` -> the look in figures.
        rates: The learning rates: a grid's name in the protocol, or {like: name, times: factor}; None: nothing trains.
        rank: The rank of the LoRA whose trainable parameters may be spent.
        target_modules: The layers that are adapted: names, `all-linear`, or a regular expression for whole names.
        peft: `peft_type` and the settings of that PEFT method; None for a method without an adapter.
        budget: The setting of `peft` that spends the budget; None where the settings of `peft` follow from `rank`.
        budget_step: The setting gets a multiple of this number; None: any number.
        budget_most: The setting gets at most this number; None: any number.
        budget_choices: Other settings of `peft` -> the values among which the budget chooses; the first value counts
            where the command line sets the setting of the budget.
        budget_pattern: The setting of `peft` that gives single layers another value: name of a layer -> value. The
            budget then finds a value for each size of layers; None: all layers get one value.
        train_rest: Whether everything but the adapted weights trains beside the adapters.
        rate_ratios: Part of a parameter's name -> the factor of the learning rate for parameters with this part.
        initialisation: The function of `train.adapt` that initialises the adapter anew.
        quantizable: The formats of quantized base weights that the method works with.
        official_dtype: The number format of the adapter in the authors' code: float32, or that of the base weights.
        allowed: Setting of the file -> its allowed values: a list, or the name of one of `ALLOWED`.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="allow")

    name: Text
    label: Text
    module: Text | None = None
    looks: dict[str, int] | None = None
    rates: Text | dict[str, Any] | None
    rank: PositiveInt | None = None
    target_modules: Targets | None = None
    peft: dict[str, Any] | None = None
    budget: Text | None = None
    budget_step: PositiveInt | None = None
    budget_most: PositiveInt | None = None
    budget_choices: dict[str, Annotated[list[Any], Field(min_length=1)]] | None = None
    budget_pattern: Text | None = None
    train_rest: Switch | None = None
    rate_ratios: dict[str, Positive] | None = None
    initialisation: Text | None = None
    quantizable: list[Literal["nf4", "int8"]] = []
    official_dtype: Literal["base", "float32"] = "base"
    allowed: dict[str, Any] = {}
    restart_every: PositiveInt | None = None
    restart_warmup: Count | None = None
    restart_schedule: Literal["jagged", "official_lifted", "plain"] | None = None
    restart_floor: Fraction | None = None
    groupings: Literal["two", "four"] | None = None
    optimizer_reset: Literal["zero", "magnitude", "random"] | None = None
    reset_scope: Literal["adapter", "all"] | None = None
    reset_ratio: Share | None = None

    @property
    def trains(self) -> bool:
        """Whether anything trains."""
        return self.rates is not None

    @property
    def trains_base(self) -> bool:
        """Whether weights of the base model train: all of them, or all but the adapted ones."""
        return self.trains and (self.peft is None or bool(self.train_rest))

    @property
    def targets(self) -> list[str] | str | None:
        """`target_modules`, or None where the settings of PEFT do not name layers."""
        targets: list[str] | str | None = (self.peft or {}).get("target_modules", self.target_modules)
        return targets

    @property
    def operator_in_force(self) -> Any:
        """The operator of the adapter: `peft.operator`, which may be set alone, else `operator`; None without one."""
        return (self.peft or {}).get("operator", self.setting("operator"))

    def setting(self, name: str) -> Any:
        """A setting of the method's file by name; None where the file has no such setting."""
        return getattr(self, name, None)


class TaskSettings(Section):
    """What is learned and measured. Settings that a task does not have are None.

    A task outside this project has its Python file in `module`, and may have settings of its own in `settings`.
    """

    name: Text
    module: Text | None = None
    settings: dict[str, Any] | None = None
    pairs: PositiveInt | None = None
    eval_pairs: PositiveInt | None = None
    data: Literal["packages", "hub"] | None = None
    data_dir: PathText | None = None
    train_file: PathText | None = None
    format: Literal["auto", "chat", "completion", "text"] | None = None
    heldout_file: PathText | None = None
    heldout_share: Part | None = None
    selection_share: Part | None = None
    train_rows: PositiveInt | None = None
    heldout_rows: PositiveInt | None = None
    probe_documents: Count | None = None
    questions: Count | None = None
    prompt: Literal["auto", "template", "plain", "raw", "alpaca", "open-instruct"] | None = None
    max_length: Length | None = None
    new_tokens: PositiveInt | None = None
    math_new_tokens: PositiveInt | None = None
    match: Literal["exact", "contains", "number"] | None = None
    benchmarks: Benchmarks | None = None
    benchmark_path: PathText | None = None
    benchmark_limit: PositiveInt | None = None
    benchmark_shots: Count | None = None
    benchmark_template: Switch | None = None
    drop_overlap: Switch | None = None
    eval_batch_size: PositiveInt | None = None


class Training(Section):
    """How the weights are trained."""

    learning_rate: Positive | None  # None only where nothing trains
    steps: PositiveInt
    batch_size: PositiveInt
    schedule: Literal["linear", "cosine", "constant"]
    schedule_floor: Fraction | None = None  # the share of the peak rate at the last step; None: zero
    warmup_steps: Count
    warm_start_steps: PositiveInt | None = None  # steps before the adapters train, in which the adapted weights train
    weight_decay: NotNegative
    max_grad_norm: Positive
    adapter_dtype: Literal["float32", "base", "official"]
    record_spectrum: Switch
    log_every: PositiveInt
    evaluate_every: PositiveInt
    checkpoint_every: PositiveInt
    keep_checkpoints: PositiveInt


class Hardware(Section):
    """Where the run computes; `spec.hardware` replaces `auto` and None by what they stand for on a machine."""

    name: Text
    device: Literal["auto", "cpu", "gpu"]
    precision: Literal["auto", "fp32", "bf16", "fp16"]
    device_batch_size: PositiveInt | None = None
    activation_checkpointing: Switch
    threads: Threads | None = None
    processes: PositiveInt | None = None  # on each node
    nodes: PositiveInt | None = None
    sharding: Literal["none", "full", "gradients", "zero2"] | None = None
    compile: Switch | None = None

    @property
    def ranks(self) -> int:
        """Processes over all nodes."""
        return (self.processes or 1) * (self.nodes or 1)

    @property
    def distributed(self) -> bool:
        """Whether the run needs a process group: several ranks, or an engine that shards over one rank."""
        return self.ranks > 1 or self.sharding not in (None, "none")


class Logger(Section):
    """Where the record is mirrored."""

    name: Literal["none", "wandb"]
    project: Text | None = None


class Paths(Section):
    """The folders of a run."""

    results: PathText
    cache: Annotated[Text | None, BeforeValidator(_unless_blank)] = None

    @property
    def cache_folder(self) -> Path:
        """`paths.cache`, else MORA_CACHE, else the user's cache folder.

        For a user without a home folder: a folder that cannot exist. Most runs need no cache, and an error of a run
        that needs the cache names this folder, which says what to do.
        """
        try:
            if cache := self.cache or _unless_blank(os.environ.get("MORA_CACHE")):
                return Path(cache).expanduser()
            return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser() / "mora"
        except RuntimeError:
            return NO_CACHE

    def sums(self, folder: Path) -> Path:
        """The file that remembers the sums of the files in `folder`."""
        name = hashlib.sha256(str(folder.absolute()).encode(errors="surrogateescape")).hexdigest()[:16]
        return self.cache_folder / "sums" / f"{name}.json"


class RunConfig(Section):
    """Everything that one run depends on."""

    method: Method
    task: TaskSettings
    scale: Text
    model: PathText
    model_id: Text | None = None  # the id on the hub of which the folder `model` is a copy
    quantization: Literal["none", "nf4", "int8"]
    seed: Seed
    dry_run: Switch = False  # a dry run leaves no record, so records do not hold this setting
    training: Training
    hardware: Hardware
    logger: Logger
    paths: Paths
    protocol: dict[str, Any]  # the tables that `spec.protocol` looks values up in

    @property
    def rank_batch(self) -> int:
        """Examples of each global batch that one rank trains on."""
        return self.training.batch_size // self.hardware.ranks

    @property
    def device_batch(self) -> int:
        """Examples that a device computes at once; it accumulates gradients over `rank_batch` examples."""
        return min(self.hardware.device_batch_size or self.rank_batch, self.rank_batch)

    def as_dict(self) -> dict[str, Any]:
        """Plain dictionaries, lists and values."""
        return self.model_dump()

    def for_record(self) -> dict[str, Any]:
        """`as_dict` without `dry_run`, and with the default folders: a machine's folders do not describe the run."""
        values = self.as_dict() | {"paths": Paths(results="results").model_dump()}
        del values["dry_run"]
        return values
