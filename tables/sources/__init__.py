"""Where do raw rows come from? A dataset YAML names a class of this folder; `files` stands on `formats`, `fingerprints` tell of changes."""
