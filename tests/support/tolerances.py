"""The largest differences between sounds that should be equal."""

STEPS_OF_16_BIT = 2 / 2**15  # two steps of 16 bits, the effect of rounding
