"""The budget under pressure: our scheduler beside others' rules, on the same questions."""
