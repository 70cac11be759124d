"""The Kubeflow components: one short file each, a signature and one call into `hrf.steps`."""
