"""What does `raycycle init` see in a table it has never met? Dialect, types, keys, personal data, leaks, split: a profile of findings."""
