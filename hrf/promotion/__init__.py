"""Which model an experiment goes on from: the gate, the promoted pointer, the chain, and the records of runs."""
