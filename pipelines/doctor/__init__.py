"""What `hrf doctor` looks at: this machine, an image, a pod, a cluster."""
