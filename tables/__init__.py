"""What is learned from? Sources, contracts, snapshots, splits and the encoder.

The way of a row: flights | files <- formats, then contract <- casting, rules; snapshots <- rows; splits; encoder <- sketches; target.
Only `raycycle init` needs: dialect, inference, labels, identity, personal, suspects, schedule and survey, which make a profile of findings.
"""
