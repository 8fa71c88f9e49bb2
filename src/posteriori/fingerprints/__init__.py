"""What a target is made of, as digests, so that work is resumed for no other one: `fingerprint`,
to read first, and `keeping`, which opens the journal of a target's work.

May import targets, evidence, models and `runs`.
"""
