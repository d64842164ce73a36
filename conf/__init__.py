"""What may a run be told? YAML groups, the typed shapes they compose into, and the errors a wrong value gets."""
