"""The command lines of run.py and of the scripts: which arguments are allowed, what is printed, how a process ends."""
