"""The asker’s side: questions into tensors, tensors into answers, one connection."""
