"""The commands of `raymix`, and of a sweep's file: what they take and print, and nothing that Python could not call."""
