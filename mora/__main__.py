"""Run the command of another tool with MoRA registered: for tools that know only the methods that PEFT itself has.

    python -m mora lm_eval --model hf --model_args pretrained=BASE,peft=ADAPTER --tasks arc_easy
    python -m mora my_script.py --its arguments

The command runs in this process. A process that the command starts does not know MoRA.
"""

from __future__ import annotations

import importlib.util
import runpy
import sys
from importlib.metadata import entry_points
from pathlib import Path

ALLOWED = "a command that an installed package has, such as lm_eval; a module that `python -m` runs; or a Python file"
HELP = f"""usage: python -m mora COMMAND [ARGUMENT ...]
Runs COMMAND with MoRA registered. COMMAND is {ALLOWED}."""


def main(arguments: list[str]) -> int:
    """Run the command `arguments[0]` with the other arguments. Importing this package has registered MoRA already.

    Returns:
        The exit code of the command; 2 if there is no such command.
    """
    if not arguments:
        print(HELP, file=sys.stderr)
        return 2
    command = arguments[0]
    if command in ("-h", "--help"):
        print(HELP)
        return 0
    sys.argv = arguments
    for entry in entry_points(group="console_scripts", name=command):
        return exit_code(entry.load()())
    if Path(command).is_file():
        sys.path[0] = str(Path(command).resolve().parent)  # as `python my_script.py` has it
        runpy.run_path(command, run_name="__main__")
    elif is_module(command):
        runpy.run_module(command, run_name="__main__", alter_sys=True)
    else:
        print(f"mora: no command {command!r} was found; allowed: {ALLOWED}", file=sys.stderr)
        return 2
    return 0


def is_module(name: str) -> bool:
    """Whether `python -m` can run a module with this name.

    Raises:
        ImportError: A package above the module exists, and imports something that does not exist.
    """
    try:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.submodule_search_locations is not None:  # a package
            spec = importlib.util.find_spec(f"{name}.__main__")
    except (ImportError, ValueError) as error:
        missing = getattr(error, "name", None)
        if missing and not name.startswith(missing):
            raise  # a package above the module is there and imports something that is not there
        return False
    return spec is not None


def exit_code(result: object) -> int:
    """The exit code for what the function of a command returned, as `sys.exit` reads such a value."""
    if result is None or isinstance(result, int):
        return int(result or 0)
    print(result, file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
