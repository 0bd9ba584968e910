"""What the arguments of run.py may say."""

from __future__ import annotations

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override, QuotedString, Sweep

from .. import redact
from ..errors import ConfigError
from ..spec import methods
from ..spec.compose import GROUPS, choices
from ..spec.explanation import unknown_setting


def flags_first(arguments: list[str]) -> list[str]:
    """The arguments with all flags in front of the settings: `-m` may stand anywhere, and Hydra wants it at an end.

    Raises:
        ConfigError: An argument is a flag that run.py does not have.
    """
    found, behind = get_args_parser().parse_known_args(arguments)
    if unknown := next((a for a in behind if a.startswith("-")), None):
        raise ConfigError(
            f"{redact.text(unknown)} is no flag of run.py; allowed: name=value, and the flags --multirun (-m), "
            "--config-dir FOLDER, --cfg job, and those of --hydra-help"
        )
    settings = [*found.overrides, *behind]
    flags = arguments[::-1]
    for setting in reversed(settings):
        flags.remove(setting)
    return [*flags[::-1], *settings] if behind else arguments


def check(arguments: list[str]) -> None:
    """Refuse arguments that hold a secret, and arguments from which Hydra would compose a run that nobody meant.

    Raises:
        ConfigError: An argument is refused.
        HydraException: An argument cannot be read.
    """
    for argument in arguments:
        if redact.holds_secret(argument):
            raise ConfigError(
                f"{redact.text(argument)} holds a key or a token: other users see arguments, and runs are recorded; "
                "allowed: the environment, such as WANDB_API_KEY or HF_TOKEN"
            )
    # Hydra's own parser, because the folder of --config-dir may have a name with a = in it.
    settings = [a for a in get_args_parser().parse_known_args(arguments)[0].overrides if "=" in a]
    for override in OverridesParser.create().parse_overrides(settings):
        _check(override, arguments)


def run_code(arguments: list[str]) -> None:
    """Run the Python files of a user that a command line names: `task.module=my_task.py`, `method.module=my_lora.py`.

    Raises:
        ConfigError: A file cannot be run, or does not define what it should.
    """
    from .. import tasks

    run = {"task.module": tasks.add, "method.module": methods.add}
    named = [a for a in arguments if a.lstrip("+").partition("=")[0] in run]
    for override in OverridesParser.create().parse_overrides(named):
        if (path := override.value()) is not None:
            run[override.key_or_group](str(path))


def _check(override: Override, arguments: list[str]) -> None:
    name, argument = override.key_or_group, override.input_line
    group, _, setting = name.partition(".")
    added = override.is_add() or override.is_force_add()
    if name in GROUPS and added:
        raise ConfigError(f"{argument}: {name} has a value already; write {name}=... without +")
    if name in GROUPS and not isinstance(override.value(), str | QuotedString | Sweep | Glob):
        # Hydra would merge the files of a list into one section.
        allowed = ", ".join(choices(name))
        raise ConfigError(f"{argument}: {name} must be one of {allowed}; for a sweep: -m {name}=a,b")
    if name == "protocol":
        raise ConfigError(
            f"{argument}: task and scale choose the protocol; allowed: task=..., scale=..., protocol.X=..."
        )
    if group in GROUPS and setting == "name":
        raise ConfigError(f"{argument}: {name} cannot be set by itself; allowed: {group}=...")
    # PEFT's own configuration class checks the settings below method.peft.
    if added and not name.startswith("method.peft.") and (reason := unknown_setting(name, arguments)):
        raise ConfigError(reason)
