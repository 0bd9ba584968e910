"""The harness: from a configuration to one record. Start reading at `runner.py`."""
