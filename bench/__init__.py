"""Measurements: sfss beside its yardsticks, on one machine in one run. How to read them: bench/README.rst."""
