"""MoraConfig: the settings of a MoRA adapter."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from peft.config import PeftConfig
from peft.utils import PeftType
from peft.utils.other import get_pattern_key

from . import operators

# `operator="auto"` means rotation up to this rank and sharing above it. At r = 8 the paper uses rotation, which has the
# higher score in Table 4 (64.2; sharing has 62.5). At r = 128 and r = 256 it uses sharing: both score 67.9 at r = 256
# in Table 4, and sharing is cheaper. The paper has no result between r = 8 and r = 128. 32 is their geometric mean.
AUTO_ROTATION_UP_TO = 32


@dataclass
class MoraConfig(PeftConfig):
    """Configuration of a `MoraModel` (MoRA, arXiv 2405.12130).

    Each adapted layer gets one trainable square matrix M of side ``r_hat = floor(sqrt((k + d) r))``, where k is the
    number of inputs and d the number of outputs of the layer. M has no more parameters than a LoRA of rank `r`.
    There is no `alpha`: the update is added at scale 1, as in the paper.

    Args:
        r: The rank of the LoRA that has the same parameter budget. It is *not* the rank of the update, and it is *not*
            the side of M.
        operator: `truncation`, `sharing`, `decouple`, `rotation` (paper, Table 4), or `auto`, which means rotation for
            r <= 32 and sharing above. `randproj`, random projections in place of the paper's operators, is a control.
        in_groups: Only for sharing: which inputs share a column of M. `strided`: input i is in group i mod r_hat.
            `contiguous`: neighbouring inputs are in one group. ReMoRA changes the grouping at every restart. A saved
            configuration holds the grouping at the time it was saved.
        out_groups: Only for sharing: which outputs share a row of M, `strided` or `contiguous`.
        wrap: How an input is padded if r_hat does not divide its size. True: with its own first entries, as in the
            authors' code. False: with zeros, as in the paper's equations. Truncation, randproj and sharing with
            contiguous `in_groups` do not pad, so `wrap` changes nothing there.
        surplus: Only for decouple and rotation, on layers with more inputs than outputs. `drop`, as in the authors'
            code: some inputs get no update. `fold`: all inputs get an update.
        projection_seed: Only for randproj: the seed of the random projections. They follow from this seed and are not
            saved with the adapter.
        rounding: How r_hat is rounded. `floor`, as in the paper. `nearest`, as in the authors' code: M can then have
            more parameters than the LoRA, by at most one row of M.
        rank_pattern: Other values of `r` for some layers, as in PEFT's LoRA: {name of a layer or regex: r}. A regex
            must match the end of the layer's name. All layers have the same operator: `auto` looks at `r` alone. For a
            name of `target_parameters` PEFT warns that the name matches no layer, but the rank is used.
        mora_dropout: The probability that an input feature is set to zero before the input is compressed. The authors
            use 0.05.
        init_weights: True: M starts at zero, so that training starts with the function of the base model. False: M is
            random, for tests.
        target_modules: The layers to adapt, as a list of names, a regex or `all-linear`. A layer can be a
            `torch.nn.Linear`, a `Conv1D` of transformers, or a linear layer quantized by a backend that PEFT supports.
        target_parameters: Parameters to adapt, as a list of names. A mixture of experts holds the weights of all its
            experts in two parameters, such as `mlp.experts.gate_up_proj` and `mlp.experts.down_proj`, and has no
            layer for an expert. Each expert gets an M of its own. Dropout, restarts, `layers_to_transform` and batches
            with `adapter_names` do not work with it.
        exclude_modules: The layers that are not adapted, as a list of names or a regex.
        layers_to_transform: The indices of the transformer blocks to adapt.
        layers_pattern: The name of the model's list of transformer blocks. Only with `layers_to_transform`.
        modules_to_save: Further modules that are trained and saved whole.
        bias: Which biases are trained: `none`, `all`, or `mora_only` (the biases of the adapted layers).

    Raises:
        ValueError: A value is not allowed.
    """

    r: int = field(default=8, metadata={"help": "The rank of the LoRA with the same parameter budget."})
    operator: str = field(default="auto", metadata={"help": f"auto, {', '.join(operators.NAMES)}."})
    in_groups: str = field(default="strided", metadata={"help": "Sharing: groups of inputs, strided or contiguous."})
    out_groups: str = field(default="strided", metadata={"help": "Sharing: groups of outputs, strided or contiguous."})
    wrap: bool = field(default=True, metadata={"help": "Pad inputs with their own first entries."})
    surplus: str = field(default="drop", metadata={"help": "Decouple and rotation: drop or fold surplus blocks."})
    projection_seed: int = field(default=0, metadata={"help": "Randproj: the seed of the random projections."})
    rounding: str = field(default="floor", metadata={"help": "Rounding of the side of M: floor or nearest."})
    rank_pattern: dict[str, int] = field(default_factory=dict, metadata={"help": "Layer name or regex -> other r."})
    mora_dropout: float = field(default=0.0, metadata={"help": "Dropout on the input of the adapter."})
    init_weights: bool = field(default=True, metadata={"help": "True: M starts at zero. False: at random, for tests."})
    target_modules: list[str] | str | None = field(default=None, metadata={"help": "Layers to adapt."})
    target_parameters: list[str] | None = field(default=None, metadata={"help": "Parameters to adapt: fused experts."})
    exclude_modules: list[str] | str | None = field(default=None, metadata={"help": "Layers that are not adapted."})
    layers_to_transform: list[int] | int | None = field(default=None, metadata={"help": "Indices of blocks to adapt."})
    layers_pattern: list[str] | str | None = field(default=None, metadata={"help": "Name of the list of blocks."})
    modules_to_save: list[str] | None = field(default=None, metadata={"help": "Modules to train and save whole."})
    bias: str = field(default="none", metadata={"help": "none, all or mora_only."})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType("MORA")
        for name in ("target_modules", "exclude_modules"):
            value = getattr(self, name)
            if not (value is None or are_names(value) or is_pattern(value)):
                raise ValueError(f"{name} must be a list of names, or a regex for whole names, got {value!r}")
            setattr(self, name, set(value) if isinstance(value, list) else value)
        for name in ("target_parameters", "modules_to_save"):
            value = getattr(self, name)
            if not (value is None or are_names(value)):  # PEFT would go through the letters of a text
                raise ValueError(f"{name} must be a list of names, got {value!r}")
        if not is_rank(self.r):
            raise ValueError(f"r must be a positive integer, got {self.r!r}")
        if not is_seed(self.projection_seed) or self.projection_seed >= 2**63:
            raise ValueError(f"projection_seed must be an integer from 0 to 2**63 - 1, got {self.projection_seed!r}")
        pattern = self.rank_pattern
        if not isinstance(pattern, dict) or not all(is_pattern(n) and is_rank(r) for n, r in pattern.items()):
            raise ValueError(f"rank_pattern must map names of layers to positive integers, got {pattern!r}")
        blocks = self.layers_to_transform
        listed = isinstance(blocks, (list, tuple, set, range)) and all(map(is_seed, blocks))
        if not (blocks is None or is_seed(blocks) or listed):
            raise ValueError(f"layers_to_transform must be indices of at least 0, got {blocks!r}")
        if isinstance(blocks, range):
            self.layers_to_transform = list(blocks)  # JSON has no ranges
        if type(self.mora_dropout) not in (int, float) or not 0.0 <= self.mora_dropout < 1.0:
            raise ValueError(f"mora_dropout must be in [0, 1), got {self.mora_dropout!r}")
        for name in ("wrap", "init_weights"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be true or false, got {getattr(self, name)!r}")
        for name, allowed in (
            ("operator", ("auto", *operators.NAMES)),
            ("in_groups", operators.GROUPS),
            ("out_groups", operators.GROUPS),
            ("surplus", operators.SURPLUS),
            ("rounding", operators.ROUNDINGS),
            ("bias", ("none", "all", "mora_only")),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        for name in ("layers_to_transform", "layers_pattern"):
            if isinstance(self.target_modules, str) and getattr(self, name) is not None:
                raise ValueError(f"{name} cannot be used when target_modules is a regex ({self.target_modules!r})")
        if self.target_parameters and (self.mora_dropout or self.layers_to_transform is not None):
            raise ValueError(
                "target_parameters works neither with mora_dropout, because the update is added to the weight and has "
                "no input of its own, nor with layers_to_transform; name the parameters with their blocks instead"
            )
        if self.layers_pattern and self.layers_to_transform is None:
            raise ValueError("layers_pattern is only used together with layers_to_transform, which is not set")

    @property
    def operator_in_force(self) -> str:
        """The name of the operator that is built: `operator` itself, or the operator that `auto` means at this `r`."""
        if self.operator != "auto":
            return self.operator
        return "rotation" if self.r <= AUTO_ROTATION_UP_TO else "sharing"

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain values, as they are saved. `auto` is replaced by the operator that it means.

        Otherwise a saved adapter would load with the wrong operator if a later version changes the meaning of `auto`.
        """
        return {**super().to_dict(), "operator": self.operator_in_force}

    def rank_of(self, layer: str) -> int:
        """The value of `r` for the layer with this name: that of the first matching entry of `rank_pattern`, or `r`."""
        return self.rank_pattern.get(get_pattern_key(list(self.rank_pattern), layer), self.r)

    def build_operator(self, in_features: int, out_features: int, r: int | None = None) -> operators.Operator:
        """The operator for a layer with `in_features` inputs and `out_features` outputs.

        Args:
            in_features: k.
            out_features: d.
            r: The rank of the layer, `rank_of(...)`. None: `r` of the configuration.
        """
        name = self.operator_in_force
        return operators.build(
            name,
            in_features,
            out_features,
            operators.square_size(in_features, out_features, r or self.r, name == "rotation", self.rounding),
            in_groups=self.in_groups,
            out_groups=self.out_groups,
            wrap=self.wrap,
            surplus=self.surplus,
            seed=self.projection_seed,
        )


def config_of(model: Any, adapter: str) -> Any:
    """The configuration of the adapter `adapter` of a PeftModel or of a tuner.

    Raises:
        ValueError: The model has no such adapter.
    """
    if adapter not in model.peft_config:
        raise ValueError(f"there is no adapter {adapter!r}; allowed: {', '.join(model.peft_config)}")
    return model.peft_config[adapter]


def is_rank(value: Any) -> bool:
    """Whether the value is an integer of at least 1. True is no integer here."""
    return is_seed(value) and value >= 1


def is_seed(value: Any) -> bool:
    """Whether the value is an integer of at least 0. False is no integer here."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def are_names(value: Any) -> bool:
    """Whether the value is a list, tuple or set of texts."""
    return isinstance(value, (list, tuple, set)) and all(isinstance(name, str) for name in value)


def is_pattern(value: Any) -> bool:
    """Whether the value is a text that is a regular expression."""
    try:
        re.compile(value)
    except (re.error, TypeError):
        return False
    return isinstance(value, str)
