"""What learns? One file per model family, the protocol they keep, and the model bundle."""
