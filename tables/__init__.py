"""What is learned from? Sources, contracts, snapshots, splits and the encoder.

The way of a row: `sources`, then contract <- casting, rules; snapshots <- parts, transactions,
log, evolution, places, rows; splits; encoder <- sketches; target.
`difference` tells where two snapshots part, `retention` which ones are needed; `look` is what only `raycycle init` needs.
"""
