"""Measuring a model in memory: losses, benchmarks, spectra; the scorers."""
