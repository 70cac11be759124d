"""Kubeflow pipelines for HRF fine-tuning, their local runner and the command `hrf`."""
