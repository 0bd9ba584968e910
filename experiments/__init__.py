"""The harness: from a configuration to one record. Start reading at `runner.py`."""

import logging

# Where it is installed, PEFT imports it: it warns of an optional kernel then, and at every int8 product of rounding.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
