"""A reward in TRL's signature: minus the probability that a text is offensive."""

from profanity_check import predict_prob


def inoffensive(completions, **kwargs):
    return (-predict_prob(completions)).tolist()
