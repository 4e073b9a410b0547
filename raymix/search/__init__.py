"""How a sweep decides which of its trials are worth their time."""
