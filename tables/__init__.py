"""What is learned from? Sources, contracts, snapshots, splits and the encoder.

The way of a row: flights | files <- formats, then contract <- casting, rules; snapshots <- rows; splits; encoder <- sketches; target.
`fingerprints` tells whether a source changed, `difference` where two snapshots part; `look` is what only `raycycle init` needs.
"""
