"""The processes that share a step's work, and weights if told to: how they are watched, what they tell meanwhile."""
