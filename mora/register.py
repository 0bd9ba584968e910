"""Registers the method "MORA" with PEFT.

PEFT lists its methods in the enum `PeftType`, and `register_peft_method` refuses a name that the enum does not have.
This module first adds the member MORA to the enum (with aenum, which can extend a standard enum) and then calls
`register_peft_method`. After these two steps transformers can load a MoRA adapter too. No other module of `mora`
changes anything inside PEFT.
"""

from __future__ import annotations

from aenum import extend_enum
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.utils import PeftType, register_peft_method

from .config import MoraConfig
from .model import MoraModel


def register() -> None:
    """Register MoRA with PEFT. Calling it again changes nothing.

    Raises:
        RuntimeError: The installed PEFT already has another method that is named MORA.
    """
    if "MORA" not in PeftType.__members__:
        extend_enum(PeftType, "MORA", "MORA")
    registered = PEFT_TYPE_TO_CONFIG_MAPPING.get(PeftType("MORA"))
    if registered is None:
        register_peft_method(name="mora", config_cls=MoraConfig, model_cls=MoraModel)
    elif registered is not MoraConfig:
        raise RuntimeError(f"PEFT already has a method MORA: {registered.__module__}.{registered.__name__}")
