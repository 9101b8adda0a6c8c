"""The numbers that all stages share, with their units.

They are facts of the published model (Hawthorne et al., ISMIR 2022, arXiv 2206.05408) and of its
weights: changing one makes every checkpoint useless.
"""

import math

SAMPLE_RATE = 16_000  # Hz, mono
FULL_RATE = 48_000  # Hz, of sound with the band above 8 kHz
HOP_LENGTH = 320  # samples between frames: 20 ms
WIN_LENGTH = 640  # samples under the Hann window: 40 ms
N_FFT = 1024
N_MELS = 128
FRAME_RATE = SAMPLE_RATE // HOP_LENGTH  # 50 frames a second

WINDOW_FRAMES = 256  # frames that the model renders at once
WINDOW_SAMPLES = WINDOW_FRAMES * HOP_LENGTH  # 81 920
WINDOW_SECONDS = WINDOW_SAMPLES / SAMPLE_RATE  # 5.12

STEPS_PER_SECOND = 100  # the time grid of the tokens: 10 ms
STEPS_PER_WINDOW = round(WINDOW_SECONDS * STEPS_PER_SECOND)  # 512
MAX_TOKENS = 2048  # note ids of a window at most

MEL_MAX_HZ = 8000.0
MEL_FLOOR = 1e-5  # magnitudes are clipped to [MEL_FLOOR, MEL_CEILING] before the logarithm
MEL_CEILING = 1e8
LOG_MEL_MIN = math.log(MEL_FLOOR)  # scaled to -1 for the Transformer
LOG_MEL_MAX = 4.0  # scaled to +1
