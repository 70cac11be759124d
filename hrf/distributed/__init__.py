"""The processes that share a step's work, and weights if told to; how they are watched, and what they tell of their progress."""
