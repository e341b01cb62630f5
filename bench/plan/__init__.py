"""Our planner against others: generated estates, what each plan costs, and whether it holds."""
