"""What is learned from? Sources, contracts, snapshots, splits and the encoder.

The way of a row: `sources`, then contract <- casting, rules; snapshots <- rows; splits; encoder <- sketches; target.
`difference` tells where two snapshots part; `look` is what only `raycycle init` needs.
"""
