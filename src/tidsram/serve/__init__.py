"""One node: supervisor, gate, workers."""
