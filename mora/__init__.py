"""MoRA: high-rank updating for parameter-efficient fine-tuning (arXiv 2405.12130), as a PEFT tuner.

    from peft import get_peft_model
    from mora import MoraConfig

    model = get_peft_model(model, MoraConfig(r=8, target_modules=["q_proj", "v_proj"]))

Importing this package is what makes PEFT know the method: do it before `PeftModel.from_pretrained`.
"""

from ._version import __version__
from .register import register

register()

from .config import MoraConfig  # noqa: E402  (only importable once PEFT knows the method)
from .layer import MoraLayer, MoraLinear  # noqa: E402
from .model import MoraModel  # noqa: E402

__all__ = ["MoraConfig", "MoraLayer", "MoraLinear", "MoraModel", "__version__", "register"]
