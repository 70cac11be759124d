"""Studies: arms x rewards x seeds at equal budgets of denoiser evaluations, and what their curves say."""
