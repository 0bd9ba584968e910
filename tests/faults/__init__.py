"""Tests that cause real faults of disks, folders, memory and clocks."""
