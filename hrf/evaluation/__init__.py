"""What a policy's pictures of the fixed seeds are worth: reward, diversity, fidelity and drift, against the base's."""
