"""Any task of lm-eval as a benchmark: one that lm-eval has, or one from a folder of a user.

A benchmark is named as in `task.benchmarks`: `gsm8k` is the first metric of lm-eval's task gsm8k, `arc_easy:acc_norm` a
metric by name, `gsm8k:exact_match:flexible-extract` a metric with one of the task's filters. The name says the unit and
the direction of the metric, so that tables know both without lm-eval.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from .. import files
from ..data.rows import fingerprint
from ..errors import ConfigError, one_line, reason_of
from ..spec import ranks

# Metrics of lm-eval that are a share of the questions.
SHARES = {"acc", "acc_all", "acc_bytes", "acc_mutual_info", "acc_norm", "accuracy", "em", "exact_match"}
SHARES |= {"pass@1", *(f"{of}_level_{rule}_acc" for of in ("prompt", "inst") for rule in ("strict", "loose"))}
# Metrics that are here in percent: the shares, and two that are read like shares and are no mean over the questions.
PERCENTAGES = SHARES | {"f1", "mcc"}
# Metrics for which lower is better: those of lm-eval by name, and a user's own metrics by the end of their name.
LOWER_IS_BETTER = {"bits_per_byte", "brier_score", "likelihood_diff", "ter", "wer"}
LOWER_ENDS = ("loss", "error", "perplexity")


@dataclass(frozen=True)
class BenchmarkName:
    """The parts of a name: a task of lm-eval, and a metric and a filter, which are empty for the first."""

    task: str
    metric: str = ""
    filter: str = ""

    @classmethod
    def of(cls, name: str) -> BenchmarkName:
        """The parts of `task`, `task:metric` or `task:metric:filter`."""
        return cls(*name.split(":"))

    @property
    def is_percent(self) -> bool:
        """Whether the metric is in percent."""
        return not self.metric or self.metric in PERCENTAGES

    @property
    def is_share(self) -> bool:
        """Whether the metric is a share of the questions. What a name leaves open is the first metric, a share."""
        return not self.metric or self.metric in SHARES

    @property
    def higher_is_better(self) -> bool:
        """Whether a higher value is a better one."""
        return not (self.metric in LOWER_IS_BETTER or self.metric.endswith(LOWER_ENDS))


@dataclass(frozen=True)
class LmEvalBenchmarks:
    """Benchmarks with their questions, loaded.

    Attributes:
        names: Name -> (metric, filter) of lm-eval that the name stands for; the filter is empty for the first.
        tasks: The tasks and groups of lm-eval.
        questions: Task of lm-eval -> how many of its questions are asked.
        texts: The questions and answers of all benchmarks.
        limit: The first so many questions of each task are asked; None: all.
        shots: How many solved questions stand before a question; None: as many as the task says.
        template: Whether the questions are put in the model's chat template.
    """

    names: dict[str, tuple[str, str]]
    tasks: list[Any]
    questions: dict[str, int]
    texts: list[str]
    limit: int | None = None
    shots: int | None = None
    template: bool = False

    @property
    def fingerprint(self) -> str:
        """A hash of what is asked, and how."""
        asked = {name: list(metric) for name, metric in self.names.items()}
        return fingerprint(asked, self.questions, self.texts, self.shots, self.template)

    @property
    def note(self) -> dict[str, Any]:
        """For the record: what each name stands for, and how the questions are asked."""
        return {
            "metrics": {name: ":".join(part for part in metric if part) for name, metric in self.names.items()},
            "questions": self.questions,
            "shots": "as the tasks say" if self.shots is None else self.shots,
            "chat_template": self.template,
            "fingerprint": self.fingerprint,
        }

    def check(self, tokenizer: Any) -> None:
        """Refuse questions in a chat template that the model does not have.

        Raises:
            ConfigError: The model has no chat template.
        """
        if self.template and not getattr(tokenizer, "chat_template", None):
            raise ConfigError("task.benchmark_template must be false: the model has no chat template")

    def scores(self, model: Any, tokenizer: Any, batch_size: int) -> dict[str, float]:
        """The score of each name, `<name>_questions`, further numbers under their whole names, `<task>_cut`.

        The number of a group of lm-eval, `<group>_cut`, is the sum over its tasks.
        """
        self.check(tokenizer)
        from .evaluation import as_lm, cut_questions, evaluation_mode, quiet

        with evaluation_mode(model), quiet():
            from lm_eval import simple_evaluate
            from lm_eval.tasks import TaskManager

            lm = as_lm(model, tokenizer, batch_size, template=self.template)
            output = simple_evaluate(
                model=lm,
                tasks=self.tasks,
                task_manager=TaskManager(include_defaults=False),
                num_fewshot=self.shots,
                limit=self.limit,
                apply_chat_template=self.template,
                bootstrap_iters=0,
                log_samples=False,
            )
        # lm-eval returns results on the first rank of a node only.
        cut = cut_questions(lm)
        for task, loaded in zip(self.questions, self.tasks, strict=True):
            if count := sum(cut[leaf.task_name] for leaf in _leaves_of(loaded)):
                cut[task] = count
        counts = {f"{name}_cut": float(count) for name, count in cut.items()}
        return ranks.broadcast(self._scores(output["results"]) | counts if output else {})

    def _scores(self, results: dict[str, dict[str, Any]]) -> dict[str, float]:
        scores: dict[str, float] = {}
        for name, (metric, filter_name) in self.names.items():
            task = BenchmarkName.of(name).task
            numbers = _numbers(results[task])
            scores[name] = next(value for (m, f), value in numbers.items() if m == metric and filter_name in ("", f))
            scores[f"{name}_questions"] = self.questions[task]
        for task in dict.fromkeys(BenchmarkName.of(name).task for name in self.names):
            for (metric, filter_name), value in _numbers(results[task]).items():
                whole = f"{task}:{metric}" if filter_name == "none" else f"{task}:{metric}:{filter_name}"
                scores.setdefault(whole, value)
        return scores


def _numbers(result: dict[str, Any]) -> dict[tuple[str, str], float]:
    """(metric, filter) -> number, in lm-eval's order; shares in percent."""
    numbers = {}
    for key, value in result.items():
        metric, comma, filter_name = key.partition(",")
        if comma and not metric.endswith("_stderr") and isinstance(value, int | float):
            numbers[metric, filter_name] = 100 * float(value) if metric in PERCENTAGES else float(value)
    return numbers


def load(
    names: Sequence[str],
    folder: str | None = None,
    limit: int | None = None,
    shots: int | None = None,
    template: bool = False,
) -> LmEvalBenchmarks:
    """The benchmarks of these names, with their questions.

    Args:
        names: See the head of this module.
        folder: A folder with the YAML files of a user's own tasks. Python files that they name are run.
        limit: The first so many questions of each task are asked; None: all.
        shots: How many solved questions stand before a question; None: as many as the task says.
        template: Whether the questions are put in the model's chat template.

    Raises:
        ConfigError: lm-eval has no such task, cannot load its questions, or has another metric for it.
    """
    from .evaluation import quiet

    with quiet():
        tasks = [*dict.fromkeys(BenchmarkName.of(name).task for name in names)]
        loaded = _loaded(tasks, Path(folder).resolve() if folder else None)
        leaves = {task: _leaves(loaded, task) for task in tasks}
        for leaf in (leaf for group in leaves.values() for leaf in group):
            if getattr(leaf, "UNSAFE_CODE", False) or getattr(leaf, "MULTIMODAL", False):
                needs = "runs code that the model writes" if getattr(leaf, "UNSAFE_CODE", False) else "has pictures"
                raise ConfigError(f"task.benchmarks: {leaf.task_name} {needs}, which this project does not do")
        texts = [text for group in leaves.values() for leaf in group for text in _texts(leaf, limit)]
        return LmEvalBenchmarks(
            {name: _metric(name, loaded, leaves) for name in names},
            [loaded["groups"].get(task) or loaded["tasks"][task] for task in tasks],
            {task: sum(_count(leaf, limit) for leaf in group) for task, group in leaves.items()},
            texts,
            limit,
            shots,
            template,
        )


def _loaded(names: list[str], folder: Path | None) -> Any:
    """lm-eval's tasks and groups of these names. Its own 14,000 tasks are listed only where one of them is needed."""
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(folder), include_defaults=False) if folder else None
    if manager is None or not set(names) <= set(manager.all_subtasks):
        manager = TaskManager(include_path=str(folder) if folder else None)
    for name in names:
        if name in manager.all_tags and name not in manager.all_groups:
            raise ConfigError(f"task.benchmarks: {name} is a tag of several tasks, without a score of its own")
        if name not in manager.all_tasks:
            close = difflib.get_close_matches(name, manager.all_tasks, 3)
            hint = f"; near names: {', '.join(close)}" if close else ""
            where = f", and {folder} has none" if folder else " (task.benchmark_path names a folder with own tasks)"
            raise ConfigError(f"task.benchmarks: lm-eval has no task {name!r}{where}{hint}")
    # A task's own data files lie where the command was given, as lm-eval has it, or beside the task.
    places = [Path.cwd(), *([folder] if folder else [])]
    for place in places:
        try:
            with contextlib.chdir(place):
                return manager.load(list(names))
        except Exception as error:  # a task's own code and the client of the hub raise many unrelated types
            if place == places[-1] or not isinstance(error, FileNotFoundError):
                reason = reason_of(error)
                raise ConfigError(f"task.benchmarks: {', '.join(names)} cannot be loaded: {reason}") from error
    raise AssertionError


def _leaves(loaded: Any, task: str) -> list[Any]:
    return _leaves_of(loaded["groups"].get(task) or loaded["tasks"][task])


def _leaves_of(loaded: Any) -> list[Any]:
    """The tasks of a group of lm-eval; of a task, the task itself."""
    return list(loaded.get_all_tasks()) if hasattr(loaded, "get_all_tasks") else [loaded]


def _metric(name: str, loaded: Any, leaves: dict[str, list[Any]]) -> tuple[str, str]:
    """The (metric, filter) that a name stands for. The direction and the unit that the name says are lm-eval's."""
    parts = BenchmarkName.of(name)
    group, directions = loaded["groups"].get(parts.task), leaves[parts.task][0].higher_is_better()
    measured = [m.metric for m in group.aggregate_metric_list or []] if group else [*directions]
    if not measured:
        raise ConfigError(f"task.benchmarks: {parts.task} is a group without a score of its own; name its tasks")
    metric = parts.metric or measured[0]
    if metric not in measured:
        raise ConfigError(f"task.benchmarks: {parts.task} has no metric {metric!r}; allowed: {', '.join(measured)}")
    better = directions.get(metric)
    if not parts.metric and (metric not in PERCENTAGES or better is False):
        raise ConfigError(
            f"task.benchmarks: the first metric of {parts.task} is {metric}, which is no share of the questions; "
            f"write {parts.task}:{metric}, or another of its metrics: {', '.join(measured)}"
        )
    if better is not None and better is not parts.higher_is_better:
        raise ConfigError(
            f"task.benchmarks: {name}: the task says that {'higher' if better else 'lower'} is better; here lower is "
            f"better for a metric whose name ends in {', '.join(LOWER_ENDS)} or is one of "
            f"{', '.join(sorted(LOWER_IS_BETTER))}"
        )
    filters = [f.name for f in getattr(leaves[parts.task][0], "_filters", [])]
    if parts.filter and filters and parts.filter not in filters:
        raise ConfigError(
            f"task.benchmarks: {parts.task} has no filter {parts.filter!r}; allowed: {', '.join(filters)}"
        )
    return metric, parts.filter


def _count(task: Any, limit: int | None) -> int:
    return min(len(task.eval_docs), limit or len(task.eval_docs))


def _texts(task: Any, limit: int | None) -> Iterator[str]:
    """The questions that are asked, each with its right answer where both are texts."""
    for i, doc in enumerate(task.eval_docs):
        if i == limit:
            return
        parts = [part for part in (task.doc_to_text(doc), task.doc_to_target(doc)) if isinstance(part, str)]
        if parts:
            yield "\n".join(parts)


def folder_fingerprint(path: str) -> str:
    """A hash of the files in a folder with tasks, and of the data files on this machine that the tasks name.

    Raises:
        ConfigError: The folder cannot be read, or a YAML file in it is wrong.
    """
    folder, digest = Path(path), hashlib.sha256()
    if not folder.is_dir():
        raise ConfigError(f"task.benchmark_path must be a folder, got {path!r}")
    inside = [p for p in sorted(folder.rglob("*")) if p.is_file() and not _is_hidden(p.relative_to(folder))]
    tasks = [p for p in inside if p.suffix in (".yaml", ".yml")]
    if not tasks:
        raise ConfigError(f"task.benchmark_path: {path} holds no YAML file")
    data = [file for task in tasks for file in _data_files(task) if file.resolve() not in {p.resolve() for p in inside}]
    try:
        for file in [*inside, *data]:
            name = file.relative_to(folder).as_posix() if file in inside else file.name
            digest.update(f"{name} {files.sha256(file)}\n".encode())
    except OSError as error:
        raise ConfigError(f"task.benchmark_path: cannot read {error.filename}: {error.strerror}") from None
    return digest.hexdigest()[:16]


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") or part == "__pycache__" for part in path.parts)


class _Loader(yaml.SafeLoader):
    """Reads the YAML files of lm-eval, whose tags (`!function`) stand for nothing here."""


_Loader.add_multi_constructor("!", lambda *_: None)


def _data_files(task: Path) -> list[Path]:
    """The data files that a task names and that lie on this machine."""
    try:
        content = yaml.load(task.read_bytes(), _Loader)  # noqa: S506 (it is a safe loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"task.benchmark_path: {task} cannot be read: {one_line(str(error))}") from None
    settings = content.get("dataset_kwargs") if isinstance(content, dict) else None
    named = settings.get("data_files") if isinstance(settings, dict) else None
    found = []
    for text in _flat(named):
        for path in (Path(text), task.parent / text):
            if path.is_file():
                found.append(path)
                break
    return found


def _flat(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _flat(part)
