"""What a machine does besides serving: work on the time that decisions leave over."""
