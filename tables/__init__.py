"""What is learned from? Sources, contracts, snapshots, splits and the encoder."""
