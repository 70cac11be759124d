"""Training: sample episodes, score them, learn from them. Read `hrf.trainer.trainer` first."""
