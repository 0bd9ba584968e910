"""Faults of disks, folders, memory and clocks, which the tests cause for real."""
