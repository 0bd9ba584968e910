"""The version of the package. The build reads it from this file, which does not import PEFT."""

__version__ = "0.2.0"
