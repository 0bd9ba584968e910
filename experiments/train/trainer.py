"""The transformers Trainer of a run: optimizer groups, schedule, curve, and checkpoints that are complete or absent."""

from __future__ import annotations

import contextlib
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import PeftModel
from torch import Tensor
from transformers import PrinterCallback, Trainer, TrainingArguments, set_seed

from mora import schedules

from .. import files
from ..data.rows import collate
from ..spec import ranks
from ..spec.run_config import RunConfig
from . import checkpoints, sharding
from .adapt import AdaptedModel
from .callbacks import Curve, Measure
from .interruption import StopWithCheckpoint
from .placement import Placement, training_arguments
from .restarts import Restarts
from .sampling import PaddedRows, SingleProcessOrder
from .warm_start import WarmStart


def quiet() -> None:
    """Turn off the progress bars of transformers, and one warning."""
    transformers.utils.logging.disable_progress_bar()
    # PEFT reads an attribute that transformers has renamed, and transformers warns about that.
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)


def schedule(config: RunConfig) -> Callable[[int], float]:
    """The factor of the learning rate as a function of the step. A resumed run needs no other state of the schedule."""
    t, m = config.training, config.method
    common: dict[str, Any] = {"steps": t.steps, "warmup": t.warmup_steps, "shape": t.schedule}
    if not m.restart_every or m.restart_schedule == "plain":
        return lambda step: schedules.plain(step, **common, floor=t.schedule_floor or 0.0)
    common |= {"every": m.restart_every, "rewarm": m.restart_warmup}
    if m.restart_schedule == "official_lifted":
        return lambda step: schedules.official_lifted(step, **common)
    return lambda step: schedules.jagged(step, **common, floor=m.restart_floor or 0.0)


class RunTrainer(Trainer):
    """A Trainer with the parameter groups and the schedule of a run; its checkpoints are complete or absent."""

    def __init__(self, config: RunConfig, adapted: AdaptedModel, **kwargs: Any) -> None:
        super().__init__(model=adapted.model, **kwargs)
        self.folder = Path(self.args.output_dir or "")
        self.config, self.rates, self.network = config, adapted.rates, adapted.model
        self.restarts = Restarts(adapted.model, config) if isinstance(adapted.model, PeftModel) else None
        self.warm_start = WarmStart(adapted.model, config)
        self.interruption = StopWithCheckpoint(config)

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            t = self.config.training
            assert t.learning_rate is not None  # of a run that trains
            groups: dict[float, list[torch.nn.Parameter]] = {}
            first = set(self.warm_start.weights)
            for name, parameter in (self.model if model is None else model).named_parameters():
                if parameter.requires_grad or parameter in first:
                    groups.setdefault(self.rates.get(name, 1.0), []).append(parameter)
            self.optimizer = torch.optim.AdamW(
                [{"params": p, "lr": t.learning_rate * rate} for rate, p in sorted(groups.items())],
                lr=t.learning_rate,
                weight_decay=t.weight_decay,
            )
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        if self.lr_scheduler is None:
            assert self.optimizer is not None
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer or self.optimizer, schedule(self.config))
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def create_accelerator_and_postprocess(self) -> None:
        with sharding.cpu_sharding() if self.args.fsdp else contextlib.nullcontext():
            super().create_accelerator_and_postprocess()

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        if isinstance(self.train_dataset, PaddedRows):
            return SingleProcessOrder(self.train_dataset, self.config.seed)
        return super()._get_train_sampler(train_dataset)

    def _run_epoch(self, *args: Any, **kwargs: Any) -> Any:
        # From a checkpoint of the last step within an epoch, transformers would train one step more.
        if self.state.global_step >= self.args.max_steps:
            self.control.should_training_stop = True
            return None
        return super()._run_epoch(*args, **kwargs)

    def floating_point_ops(self, inputs: Any) -> int:
        """Zero: nothing reads the number, and the method of transformers goes through all parameters at every step."""
        return 0

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        folder = Path(output_dir or self.folder)
        if self.is_fsdp_enabled and not _internal_call:
            weights = sharding.whole_weights(self.network)  # all ranks take part, rank 0 gets the weights
            if ranks.first():
                self._save(str(folder), state_dict=weights)
        else:
            super().save_model(output_dir, _internal_call)
        if self.restarts:
            self.restarts.save(folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if self.restarts:
            self.restarts.load(Path(resume_from_checkpoint))
        super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        final = self.folder
        try:
            with staging("a checkpoint", final / "incomplete") as folder:
                self.args.output_dir = str(folder)
                super()._save_checkpoint(model, trial)
                ranks.barrier()
                if ranks.first():
                    (checkpoint,) = folder.iterdir()
                    checkpoints.seal(checkpoint)
                    files.replace(checkpoint, final / checkpoint.name)
        finally:
            self.args.output_dir = str(final)
        if ranks.first():
            checkpoints.prune(final, self.state.global_step, self.config.training.keep_checkpoints)
        ranks.barrier()


@contextlib.contextmanager
def staging(what: str, folder: Path) -> Iterator[Path]:
    """A new folder into which all ranks write `what`. Rank 0 moves the files to their place, and deletes the folder.

    Raises:
        StorageError: `what` cannot be written to the disk.
    """
    if ranks.first():
        shutil.rmtree(folder, ignore_errors=True)
    ranks.barrier()
    try:
        with files.writing(what, folder.parent):
            yield folder
    finally:
        if ranks.first():
            shutil.rmtree(folder, ignore_errors=True)


def build(
    adapted: AdaptedModel,
    train: Sequence[dict[str, Tensor]],
    measure: Measure,
    config: RunConfig,
    placement: Placement,
    folder: Path,
) -> RunTrainer:
    """The trainer of a run, whose checkpoints are in `folder`; `measure` gives the metrics of a point of the curve.

    Raises:
        ConfigError: The checkpoints in `folder` were written under another sharding.
    """
    t = config.training
    sharding.check(checkpoints.by_step(folder), config)
    set_seed(config.seed)
    if config.hardware.activation_checkpointing:
        # Otherwise no gradient would flow into a recomputed block whose inputs need no gradient.
        adapted.model.enable_input_require_grads()
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=t.steps,
        max_grad_norm=t.max_grad_norm,
        seed=config.seed,
        data_seed=config.seed,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        logging_nan_inf_filter=False,
        **training_arguments(config, placement, sharding.block_classes(adapted.model)),
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # one process uses one GPU
    examples: Any = train
    if config.hardware.ranks > 1 and hasattr(train, "__len__"):
        examples = PaddedRows(train, config.device_batch * config.hardware.ranks)
    trainer = RunTrainer(config=config, adapted=adapted, args=arguments, train_dataset=examples, data_collator=collate)
    trainer.remove_callback(PrinterCallback)
    # The order matters: the curve measures the model after the optimizer's step, then a restart merges the adapter, or
    # the warm start ends, and then an interruption saves a checkpoint.
    for callback in (Curve(measure, config), trainer.restarts, trainer.warm_start, trainer.interruption):
        if callback:
            trainer.add_callback(callback)
    return trainer


def train(trainer: RunTrainer) -> None:
    """Train from the newest intact checkpoint, or from the start if there is none."""
    checkpoint = ranks.broadcast(checkpoints.newest_intact(trainer.folder) if ranks.first() else None)
    if rank := ranks.current().index:
        torch.manual_seed(trainer.config.seed + rank)  # dropout differs between ranks; rank 0 has that of one process
    with trainer.interruption.listening():
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)


def save(trainer: RunTrainer, folder: Path) -> None:
    """Save the adapter, or the whole model if that was trained, to `folder`, which is complete or absent afterwards.

    Raises:
        StorageError: The model cannot be written to the disk.
    """
    with staging("the trained model", folder.with_name(f".{folder.name}.incomplete")) as temporary:
        trainer.save_model(str(temporary))
        if ranks.first():
            files.flush_all(temporary)
            files.replace(temporary, folder)
    ranks.barrier()
