"""Data sets: where they come from (`catalog`), their rows (`columns`), and the one copy per node (`store`)."""
