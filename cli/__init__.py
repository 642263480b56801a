"""The commands: each parses its options, calls a workflow, and prints."""
