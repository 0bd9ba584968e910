"""The harness: from a configuration to one record. Start reading at `runner.py`, one run on one screen.

config, checks, machine     what a run is; which settings do not fit together; what `auto` means on this machine
sources, models, tasks/     data files; a model and its tokenizer (shapes, scratch, quantized); what is learnt
methods, restarts           how a model is adapted, and what happens to the adapter on the way
training, callbacks         the Trainer; hardware, interruption and checkpoints are what it stands on
evaluation, lm, spectrum    what is measured at the end
records, provenance, cost   what is kept; storage writes it, redact cleans it, tracking mirrors it to W&B
saved, export               a finished run again: scored without training, or as others load it
dry_run, trace              what a run would need
cli/, distributed/          the command line; several processes
paper/, aggregate/          the published numbers; from records to tables, figures, report
"""

import logging

# Where it is installed, PEFT imports it: it warns of an optional kernel then, and at every int8 product of rounding.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
