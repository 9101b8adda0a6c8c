"""How far apart two sounds may be that are meant to be equal."""

STEPS_OF_16_BIT = 2 / 2**15  # two: what rounding may do
