"""The processes that share a step's work, how they are watched, and what they tell of their progress."""
