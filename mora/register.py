"""Makes PEFT know the method "MORA".

PEFT keeps its methods in a closed enum, and `register_peft_method` refuses a name that is not in it. Adding the
member (aenum does that to a standard enum) and then calling the official function makes everything work, loading
through transformers included. It is the only place that touches PEFT's internals in this way.
"""

from __future__ import annotations

from aenum import extend_enum
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.utils import PeftType, register_peft_method


def register() -> None:
    """Register MoRA with PEFT. Calling it again changes nothing.

    Raises:
        RuntimeError: The installed PEFT has a method MORA of its own.
    """
    if "MORA" not in PeftType.__members__:
        extend_enum(PeftType, "MORA", "MORA")

    # The config refers to PeftType.MORA, so it can only be imported once the member exists.
    from .config import MoraConfig
    from .model import MoraModel

    registered = PEFT_TYPE_TO_CONFIG_MAPPING.get(PeftType("MORA"))
    if registered is None:
        register_peft_method(name="mora", config_cls=MoraConfig, model_cls=MoraModel)
    elif registered is not MoraConfig:
        raise RuntimeError(f"PEFT already has a method MORA: {registered.__module__}.{registered.__name__}")
