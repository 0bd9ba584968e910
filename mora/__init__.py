"""MoRA: high-rank updating for parameter-efficient fine-tuning (arXiv 2405.12130), as a PEFT tuner.

    from peft import get_peft_model
    from mora import MoraConfig

    model = get_peft_model(model, MoraConfig(r=8, target_modules=["q_proj", "v_proj"]))

Importing this package registers MoRA with PEFT. Import it before you call `PeftModel.from_pretrained`.
"""

from ._version import __version__
from .config import MoraConfig
from .layer import MoraLayer, MoraLinear
from .model import MoraModel
from .official import convert_official, official_config
from .register import register

register()

__all__ = [
    "MoraConfig",
    "MoraLayer",
    "MoraLinear",
    "MoraModel",
    "__version__",
    "convert_official",
    "official_config",
    "register",
]
