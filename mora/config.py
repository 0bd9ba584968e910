"""MoraConfig: what a user chooses about a MoRA adapter."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from peft.config import PeftConfig
from peft.utils import PeftType

from . import operators

# `operator="auto"` takes rotation up to this rank and sharing above it. The paper uses rotation at r = 8, where its
# Table 4 has it ahead of sharing (64.2 against 62.5), and sharing at r = 128 and r = 256 (a tie in Table 4, and the
# cheaper of the two). It measured nothing in between: the line lies at the geometric mean of 8 and 128.
AUTO_ROTATION_UP_TO = 32


@dataclass
class MoraConfig(PeftConfig):
    """Configuration of a `MoraModel` (MoRA, arXiv 2405.12130).

    Each adapted layer gets one trainable square matrix M of side ``r_hat = floor(sqrt((in + out) r))``, so it never
    has more parameters than LoRA has at rank `r`. There is no `alpha`: the update is added at scale 1, as in the paper.

    Args:
        r: The rank of the LoRA whose parameter budget is spent. It is *not* the rank of the update, nor the side of M.
        operator: `truncation`, `sharing`, `decouple`, `rotation` (paper, Table 4), or `auto`: rotation for
            r <= 32, sharing above.
        in_groups: For sharing: which inputs share a column of M, `strided` (input i is in group i mod r_hat) or
            `contiguous` (neighbours). ReMoRA flips it at every restart; a saved config holds the grouping in force.
        out_groups: The same for the outputs, which share a row of M.
        wrap: Pad inputs that r_hat does not divide with their own first entries (the authors' code) or with
            nothing (the paper's equations).
        surplus: For decouple and rotation on layers with more inputs than outputs: `drop` (the authors' code; some
            inputs get no update) or `fold` (no input is dead).
        mora_dropout: Probability of dropping an input feature before it is compressed. The authors use 0.05.
        init_weights: True starts M at zero, so that training starts from the base model's function. False draws M
            at random; for tests.
        target_modules: Names or a regex of the layers to adapt (`torch.nn.Linear`, transformers' `Conv1D`, or
            layers quantized by a backend that PEFT supports), or `all-linear`.
        exclude_modules: Names or a regex of layers to leave alone.
        layers_to_transform: Indices of the blocks to adapt.
        layers_pattern: The name of the list of blocks, when `layers_to_transform` is given.
        modules_to_save: Modules beside the adapters that are trained and saved whole.
        bias: `none`, `all` or `mora_only`: which biases are trained.

    Raises:
        ValueError: A value outside what is said above.
    """

    r: int = field(default=8, metadata={"help": "The LoRA rank whose parameter budget is spent."})
    operator: str = field(default="auto", metadata={"help": "auto, truncation, sharing, decouple or rotation."})
    in_groups: str = field(default="strided", metadata={"help": "Sharing: strided or contiguous inputs."})
    out_groups: str = field(default="strided", metadata={"help": "Sharing: strided or contiguous outputs."})
    wrap: bool = field(default=True, metadata={"help": "Pad inputs with their own first entries."})
    surplus: str = field(default="drop", metadata={"help": "Decouple, rotation with in > out: drop or fold."})
    mora_dropout: float = field(default=0.0, metadata={"help": "Dropout on the input of the adapter."})
    init_weights: bool = field(default=True, metadata={"help": "M starts at zero; False: random, for tests."})
    target_modules: list[str] | str | None = field(default=None, metadata={"help": "Layers to adapt."})
    exclude_modules: list[str] | str | None = field(default=None, metadata={"help": "Layers to leave alone."})
    layers_to_transform: list[int] | int | None = field(default=None, metadata={"help": "Blocks to adapt."})
    layers_pattern: list[str] | str | None = field(default=None, metadata={"help": "Name of the list of blocks."})
    modules_to_save: list[str] | None = field(default=None, metadata={"help": "Modules trained and saved whole."})
    bias: str = field(default="none", metadata={"help": "none, all or mora_only."})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType("MORA")
        for name in ("target_modules", "exclude_modules"):
            value = getattr(self, name)
            setattr(self, name, set(value) if isinstance(value, list) else value)
        if not isinstance(self.r, int) or isinstance(self.r, bool) or self.r < 1:
            raise ValueError(f"r must be a positive integer, got {self.r!r}")
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
            ("bias", ("none", "all", "mora_only")),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        for name in ("layers_to_transform", "layers_pattern"):
            if isinstance(self.target_modules, str) and getattr(self, name) is not None:
                raise ValueError(f"{name} cannot be used when target_modules is a regex ({self.target_modules!r})")
        if self.layers_pattern and self.layers_to_transform is None:
            raise ValueError("layers_pattern is only used together with layers_to_transform, which is not given")

    @property
    def operator_in_force(self) -> str:
        """The operator that is built: `operator`, or what `auto` stands for at this `r`."""
        if self.operator != "auto":
            return self.operator
        return "rotation" if self.r <= AUTO_ROTATION_UP_TO else "sharing"

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain values, and so what is saved: with the operator in force instead of `auto`.

        A saved adapter must not change its meaning when a later version draws the line of `auto` elsewhere.
        """
        return {**super().to_dict(), "operator": self.operator_in_force}

    def build_operator(self, in_features: int, out_features: int) -> operators.Operator:
        """The operator for a layer of these sizes."""
        name = self.operator_in_force
        return operators.build(
            name,
            in_features,
            out_features,
            operators.square_size(in_features, out_features, self.r, even=name == "rotation"),
            in_groups=self.in_groups,
            out_groups=self.out_groups,
            wrap=self.wrap,
            surplus=self.surplus,
        )
