"""Where each decision is made, on how many machines, and whether its budget holds there."""
