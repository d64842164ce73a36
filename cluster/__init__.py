"""Where does it run? The Ray session, the local platform, storage, progress and the resource plan."""
