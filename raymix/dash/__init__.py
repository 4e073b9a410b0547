"""The live page: runs of a storage folder, from their ledgers, while they train and after."""

DEFAULT_PORT = 8270
