"""What is written and read: folders with digests, object storage (S3), the hub, weights by their sha256, secrets."""
