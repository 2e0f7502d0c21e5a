"""The launcher: configuration, the pipeline of a run, and the commands."""
