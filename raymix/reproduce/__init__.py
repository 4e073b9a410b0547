"""Tables and figures of papers, rebuilt: one module each, found by its name; what they share is in `base`."""
