"""What answers? The endpoint, its protocols, authorisation and micro-batching."""
