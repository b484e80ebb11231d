"""The engines. Each is one file here and one line in `ipc.engines.ENGINES`."""
