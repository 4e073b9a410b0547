"""Benchmarks, run by `raymix bench`: never by tests, as a time is a property of a machine and not of the code alone."""
