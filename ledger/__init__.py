"""What is remembered? Tracking, registry, digests, keys and identities."""
