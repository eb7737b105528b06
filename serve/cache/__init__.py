"""The adapter cache: object store, disk, host memory and slots of an engine."""
