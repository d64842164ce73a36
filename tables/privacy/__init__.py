"""Personal data: how it is found, what is done to it before a row is kept, and the keys and tokens that this takes."""
